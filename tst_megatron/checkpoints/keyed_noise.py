"""Random numbers of a tensor, the same whatever the layout and whoever asks for them.

The one idea: they follow from the seed, the layer and the tensor's name alone, and are made whole,
so that every rank and the offline commands cut their parts of the same numbers.
"""

import hashlib

import torch

from tst_megatron.checkpoints.keys import Key


def name_of(key: Key, expert: int | None = None) -> str:
    """What numbers are known by: its name within its layer, with its expert at the end.

    Args:
        key: of the tensor, which may have the expert's number in it.
        expert: where experts are an axis of the tensor, the number; else None.
    """
    name = str(key.name)
    if key.expert is not None:
        name = name.replace(f"experts.experts.{key.expert}.", "experts.experts.", 1)
        expert = key.expert
    return name if expert is None else f"{name}.expert{expert}"


def noise(seed: int, layer: int, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal numbers ``shape``, float32, on the CPU.

    Args:
        seed: of the run.
        layer: of the model that is made, from 0.
        name: of the tensor within its layer, with the expert's number if it is one's.
        shape: of the whole tensor.
    """
    return torch.randn(shape, generator=_generator(seed, layer, name))


def uniform(seed: int, layer: int, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Numbers from 0 to below 1, float32, on the CPU; all else as `noise`."""
    return torch.rand(shape, generator=_generator(seed, layer, name))


def _generator(seed: int, layer: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed} {layer} {name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
