"""Does this machine have the FP8 that a run asks for? Transformer Engine knows; it is asked early.

Megatron would find out in the first forward pass, on every rank and in the middle of a traceback.
"""

import argparse

from tst_megatron.errors import UserError


def check_fp8(args: argparse.Namespace) -> None:
    """Check ``--fp8-format`` and ``--fp8-recipe`` against this GPU and Transformer Engine.

    Raises:
        UserError: either lacks what the recipe needs.
    """
    if args.fp8 is None:
        return
    asked = f"--fp8-recipe {args.fp8_recipe}"
    try:
        from transformer_engine.pytorch.quantization import FP8GlobalStateManager as Support
    except ImportError:
        raise UserError(
            f"{asked} needs a Transformer Engine that has it, and none is installed here: run in "
            "the GPU image, or leave --fp8-format out"
        ) from None
    is_available = {
        "mxfp8": Support.is_mxfp8_available,
        "blockwise": Support.is_fp8_block_scaling_available,
    }.get(args.fp8_recipe, Support.is_fp8_available)
    available, reason = is_available()
    if not available:
        raise UserError(
            f"{asked} does not run on this GPU: {reason.rstrip('.')}; use another --fp8-recipe, or "
            "leave --fp8-format out"
        )
