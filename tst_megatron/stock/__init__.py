"""Megatron's own pre-training program, in the parts that trainer and methods share."""
