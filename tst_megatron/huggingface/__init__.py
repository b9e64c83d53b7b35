"""A model out of Megatron's checkpoint and in again, as Hugging Face's libraries have it."""
