"""From text files to Megatron's ``.bin`` and ``.idx``."""
