"""Tokenizers: described once, encoded with the fastest library that gives the reference's ids."""
