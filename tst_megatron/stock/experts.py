"""Which parameters are an expert's, and how many ranks hold parts of one parameter.

The one idea: Megatron names what is an expert's (``.experts.``), with its own linear layers and
with Transformer Engine's alike, and marks what is split (``tensor_model_parallel``); so a rank
knows of what its numbers are a part. Megatron's mark of an expert, ``allreduce``, is not set on
those that are spread as the rest of the model is.
"""

import argparse

import torch


def is_experts(name: str) -> bool:
    """Whether a parameter of a model's ``named_parameters`` is one of many experts'.

    The expert of all positions (``.shared_experts.``) is none of them.
    """
    return ".experts." in name


def copies(args: argparse.Namespace, name: str, parameter: torch.Tensor) -> int:
    """Ranks that hold parts of the same parameter, or experts like it.

    Args:
        args: Megatron's validated arguments.
        name: in the model.
        parameter: as this rank holds it.
    """
    is_split = getattr(parameter, "tensor_model_parallel", False)
    if is_experts(name):
        split = args.expert_tensor_parallel_size if is_split else 1
        return int(split * args.expert_model_parallel_size)
    return int(args.tensor_model_parallel_size) if is_split else 1
