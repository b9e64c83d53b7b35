"""Commands between Megatron's checkpoints and Hugging Face's folders."""
