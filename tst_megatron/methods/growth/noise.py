"""Which tensors of a copied layer noise is added to, and how much of it."""

import math

OUTPUTS = ("linear_proj", "linear_fc2", "out_proj")
"""Modules that give back to the residual stream: of attention, of MLPs and experts, of Mamba."""


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
