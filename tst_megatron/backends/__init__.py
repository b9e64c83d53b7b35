"""Where Megatron runs: on GPUs as it is, or on a CPU through `tst_megatron.backends.cpu`."""

import os

DEVICE_VARIABLE = "TST_MEGATRON_DEVICE"


def prepare_backend() -> bool:
    """Make Megatron's trainer run on this machine; call before megatron is imported.

    Loads the CPU backend if there is no GPU, or if ``TST_MEGATRON_DEVICE=cpu`` asks for it; on a
    machine with GPUs nothing of it is imported.

    Returns:
        Whether training runs on a GPU.
    """
    import torch

    if torch.cuda.is_available() and os.environ.get(DEVICE_VARIABLE) != "cpu":
        return True
    from tst_megatron.backends.cpu import install

    install()
    return False
