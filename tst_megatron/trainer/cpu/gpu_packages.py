"""Packages of GPU kernels, hidden from Megatron where it trains on a CPU.

The one idea: Megatron takes them wherever they can be imported, flags or no flags: the last norm of
a *local* model is Transformer Engine's or Apex's, so are the optimizer and the clipping of its
gradients, and none computes on a CPU. Hidden, they are as absent as where they are not installed,
which is where the CPU backend is tested. So are those that nothing on a CPU has a use for: what
they look for while they are imported is not there, and not each says so with an ``ImportError``.

Left alone is what works on a CPU as well: ``nvidia_resiliency_ext``, ``modelopt``,
``emerging_optimizers`` and whatever reads text or writes logs.
"""

import sys

HIDDEN = (
    "transformer_engine",
    "transformer_engine_torch",
    "apex",
    # Compiled parts of Apex, which are modules of their own.
    "amp_C",
    "fused_weight_gradient_mlp_cuda",
    # Attention.
    "flash_attn",
    "flash_attn_3",
    "flashattn_hopper",
    "flash_mla",
    "flashinfer",
    "fast_hadamard_transform",
    # State-space and linear-attention layers.
    "causal_conv1d",
    "mamba_ssm",
    "fla",
    # Numbers, links and memory of a GPU.
    "nvidia_kitchen",
    "deep_ep",
    "cupy",
    "nvshmem",
    "torch_memory_saver",
)
"""Top-level modules that Megatron imports in a ``try``, as it is imported itself."""


def hide() -> tuple[str, ...]:
    """Make the packages of `HIDDEN` unimportable in this process and its forks.

    To ``import`` and to ``importlib.util.find_spec`` they are not installed (a None in
    ``sys.modules``, https://docs.python.org/3/reference/import.html#the-module-cache). Call it
    before megatron is imported.

    Returns:
        Those that are imported already, which stay as they are.
    """
    imported = tuple(name for name in HIDDEN if sys.modules.get(name) is not None)
    sys.modules.update({name: None for name in HIDDEN if name not in imported})  # type: ignore[misc]  # as the reference has it
    return imported
