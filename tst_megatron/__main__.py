"""``python -m tst_megatron`` is the command ``tst-megatron``."""

from tst_megatron.cli import main

# Checkpoint writers spawn processes that import this module again.
if __name__ == "__main__":
    main()
