"""Megatron's trainer with superposition in it."""
