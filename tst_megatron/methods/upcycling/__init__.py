"""Sparse upcycling: a dense model's MLPs become experts, and training goes on."""
