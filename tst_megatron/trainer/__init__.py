"""Megatron's trainer with events, and with what a run's methods make of it."""
