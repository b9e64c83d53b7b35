"""Token-superposition training on Megatron-Core."""
