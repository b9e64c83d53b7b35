"""Noise on copied layers, the same whatever the layout and whoever adds it.

The one idea: what is added to a layer's tensor follows from the seed, the layer and the tensor's
name alone, and is made whole, so that every rank and the offline command cut their parts of the
same numbers.
"""

import hashlib
import math

import torch

from tst_megatron.checkpoints.keys import Key

OUTPUTS = ("linear_proj", "linear_fc2", "out_proj")
"""Modules that give back to the residual stream: of attention, of MLPs and experts, of Mamba."""


def name_of(key: Key, expert: int | None = None) -> str:
    """What noise knows a matrix by: its name within its layer, with its expert at the end.

    Args:
        key: of the tensor, which may have the expert's number in it.
        expert: where experts are an axis of the tensor, the number; else None.
    """
    name = str(key.name)
    if key.expert is not None:
        name = name.replace(f"experts.experts.{key.expert}.", "experts.experts.", 1)
        expert = key.expert
    return name if expert is None else f"{name}.expert{expert}"


def is_output(name: str) -> bool:
    """Whether a tensor's name is of a module that gives back to the residual stream."""
    return any(part in OUTPUTS or part.startswith("linear_fc2") for part in name.split("."))


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a layer's tensor is a weight matrix: neither a norm, nor a bias, nor a convolution.

    Args:
        name: within its layer.
        shape: of one layer's, one expert's.
    """
    return len(shape) == 2 and name.endswith("weight") and min(shape) > 1


def standard_deviation(name: str, hidden_size: int, num_layers: int) -> float:
    """Of the noise (arXiv 2405.15319, Eq. 54): 1 / (d l^2) is the variance for outputs, 2 / (5 d)
    that for all else.

    Args:
        name: of the tensor.
        hidden_size: d.
        num_layers: l, of the grown model.
    """
    if is_output(name):
        return 1 / (math.sqrt(hidden_size) * num_layers)
    return math.sqrt(2 / (5 * hidden_size))


def noise(seed: int, layer: int, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal numbers ``shape``, float32, on the CPU.

    Args:
        seed: of the run.
        layer: of the grown model, from 0.
        name: of the tensor within its layer, with the expert's number if it is one's.
        shape: of the whole tensor.
    """
    digest = hashlib.sha256(f"{seed} {layer} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    return torch.randn(shape, generator=generator)
