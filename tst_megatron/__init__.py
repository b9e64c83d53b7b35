"""Ways to train for less on Megatron-Core, and what each of them saves."""
