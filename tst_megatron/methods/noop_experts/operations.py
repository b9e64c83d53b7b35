"""Floating-point operations that a no-op expert does not do."""

import argparse

_PASSES = 3  # Forward, and backward for weights and for inputs.
_FMA = 2


def of_choice(args: argparse.Namespace) -> int:
    """Operations of one expert on one token, forward and backward, as Megatron counts them.

    Args:
        args: Megatron's validated arguments.
    """
    width = int(args.moe_latent_size or args.hidden_size)
    units = int(args.moe_ffn_hidden_size or args.ffn_hidden_size)
    matrices = 3 if args.swiglu else 2
    return _PASSES * _FMA * matrices * width * units
