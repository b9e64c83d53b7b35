"""Flags that this Megatron still reads and no longer heeds, and what takes their place.

The one idea: a flag that is read and does nothing trains another run than the one that was asked
for. They were found by asking which arguments of ``megatron/training/arguments.py`` nothing looks
at afterwards; a test asks again. Nothing of Megatron's is imported, which takes seconds.
"""

import argparse
import logging

from tst_megatron.errors import UserError

logger = logging.getLogger(__name__)

CHANGE_THE_RUN = {
    "rampup_batch_size": (
        "--rampup-batch-size",
        "in place of it and --global-batch-size write the sizes and the tokens from which they "
        "hold, as --step-batch-size-schedule '0:256 10B:512 50B:1024'",
    ),
    "openai_gelu": ("--openai-gelu", "leave it out, and have the exact GELU"),
    "apply_residual_connection_post_layernorm": (
        "--apply-residual-connection-post-layernorm",
        "leave it out, and have residuals from before the norm",
    ),
    "vocab_extra_ids": ("--vocab-extra-ids", "leave it out, or add tokens to the tokenizer"),
}
"""By argument: flag, and what to do instead."""

ROPE_SCALING_FACTOR = 8.0
"""That ``--use-rope-scaling`` scales by, whatever ``--rope-scaling-factor`` says."""

CHANGE_NO_RESULT = {
    "use_flash_attn": ("--use-flash-attn", "--attention-backend says which kernels are used"),
    "exit_signal_handler_for_dataloader": (
        "--exit-signal-handler-for-dataloader",
        "--exit-signal-handler is for the training processes",
    ),
    "dist_ckpt_save_pre_mcore_014": (
        "--dist-ckpt-save-pre-mcore-014",
        "checkpoints are of the present form",
    ),
}
"""By argument: flag, and what holds instead."""

_GONE = {
    "batch_size": ("--batch-size", "use --micro-batch-size"),
    "warmup": ("--warmup", "use --lr-warmup-fraction"),
    "model_parallel_size": ("--model-parallel-size", "use --tensor-model-parallel-size"),
    "checkpoint_activations": ("--checkpoint-activations", "use --recompute-activations"),
}
"""Megatron's validation ends over these, in an assertion or with code 0; otherwise likewise."""


def check_unheeded(args: argparse.Namespace) -> None:
    """Refuse flags that would change the run if anything heeded them.

    Args:
        args: flags of a parser, which need not know them all.

    Raises:
        UserError: there is one.
    """
    for name, (flag, instead) in CHANGE_THE_RUN.items():
        if getattr(args, name, None):
            raise UserError(f"{flag} does nothing in this Megatron: {instead}")
    for name, (flag, instead) in _GONE.items():
        if getattr(args, name, None):
            raise UserError(f"{flag} is gone from Megatron: {instead}")
    _check_rope_scaling(args)


def _check_rope_scaling(args: argparse.Namespace) -> None:
    """A model's configuration is not given the factor, and a hybrid model's not the scaling
    (``…_config_from_args`` in megatron/training/argument_utils.py).
    """
    if not getattr(args, "use_rope_scaling", None):
        return
    if getattr(args, "hybrid_layer_pattern", None):
        raise UserError(
            "--use-rope-scaling does nothing to a hybrid model in this Megatron: leave it out, or "
            "leave --hybrid-layer-pattern out"
        )
    factor = getattr(args, "rope_scaling_factor", None)
    if factor not in (None, ROPE_SCALING_FACTOR):
        raise UserError(
            f"--rope-scaling-factor {factor:g} does nothing in this Megatron, which scales by "
            f"{ROPE_SCALING_FACTOR:g}: leave it out"
        )


def say_unheeded(args: argparse.Namespace) -> None:
    """Warn of flags that nothing heeds, and that would not change what the run ends in."""
    for name, (flag, instead) in CHANGE_NO_RESULT.items():
        if getattr(args, name):
            logger.warning("%s does nothing in this Megatron: %s.", flag, instead)
