"""Where Megatron runs: on GPUs as it is, or on a CPU through `tst_megatron.trainer.cpu.patches`."""

import os

DEVICE_VARIABLE = "TST_MEGATRON_DEVICE"
FLAGS = (
    "--distributed-backend=gloo",
    "--transformer-impl=local",
    "--no-masked-softmax-fusion",
    "--no-bias-gelu-fusion",
    "--no-bias-swiglu-fusion",
    "--no-bias-dropout-fusion",
    "--no-rope-fusion",
    "--no-persist-layer-norm",
    "--no-gradient-accumulation-fusion",
)
"""Megatron's own flags for what only a GPU has; put before the user's, which win."""


def prepare_backend() -> tuple[str, ...]:
    """Make Megatron's trainer run on this machine; call before megatron is imported.

    Loads the CPU backend if there is no GPU, or if ``TST_MEGATRON_DEVICE=cpu`` asks for it; on a
    machine with GPUs nothing of it is imported.

    Returns:
        Flags of Megatron's that this machine needs: none on GPUs.
    """
    import torch

    if torch.cuda.is_available() and os.environ.get(DEVICE_VARIABLE) != "cpu":
        return ()
    from tst_megatron.trainer.cpu import patches as cpu

    cpu.install()
    return FLAGS
