"""Where Megatron runs: on GPUs as it is, or on a CPU through `trainer/cpu/`."""

import os

from tst_megatron.errors import UserError

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

    Loads the CPU backend if there is no GPU, or if ``TST_MEGATRON_DEVICE=cpu`` asks for it, and
    hides from Megatron the packages that need a GPU; on a machine with GPUs nothing of it is
    imported.

    Returns:
        Flags of Megatron's that this machine needs: none on GPUs.

    Raises:
        UserError: a package that has to be hidden is imported already.
    """
    if _trains_on_gpus():
        return ()
    from tst_megatron.trainer.cpu import gpu_packages

    if imported := gpu_packages.hide():
        raise UserError(
            f"{imported[0]} is imported already, and Megatron would use it on this CPU, where it "
            "does not run: leave that import out, or train on a GPU"
        )
    prepare_to_import()
    return FLAGS


def prepare_to_import() -> None:
    """Make Megatron import on this machine, with every package that is installed.

    For what imports it or builds a model and never trains: on a machine without a GPU, Transformer
    Engine is there as on one that has GPUs.
    """
    if _trains_on_gpus():
        return
    from tst_megatron.trainer.cpu import patches as cpu

    cpu.install()


def _trains_on_gpus() -> bool:
    import torch

    return torch.cuda.is_available() and os.environ.get(DEVICE_VARIABLE) != "cpu"
