"""Warnings that tell a user nothing: each named word for word, with the reason, and left out.

The one idea: a warning with a word more or less than these is shown. The filters come after those
of whoever runs Python, so that ``python -W default`` shows these as well.
"""

import logging
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial


@dataclass(frozen=True)
class Noise:
    """A warning that is left out.

    Attributes:
        text: all of it; of a logger's, before its values are put in.
        why: it tells nothing.
        logger: that it comes from; empty for one of Python's warnings.
    """

    text: str
    why: str
    logger: str = ""


_FALLS_BACK = "they are kernels for a GPU, and there is none"
WITHOUT_A_GPU = (
    *(
        Noise(f"Transformer Engine and Apex are not installed. Falling back to {what}", _FALLS_BACK)
        for what in (
            "Torch optimizers.",
            "local implementations of multi_tensor_applier and multi_tensor_scale",
            "local implementations of multi_tensor_applier and multi_tensor_l2norm",
            "local implementations of multi_tensor_applier, multi_tensor_l2norm, and "
            "multi_tensor_scale",
        )
    ),
    Noise("Apex is not installed. Falling back to Torch Norm", _FALLS_BACK),
    Noise(
        "Only transformer-engine>=1.7.0 supports MoE experts, but your version is 0.0.0. Use local "
        "linear implementation instead.",
        "a version of 0.0.0 is none at all, and it needs a GPU",
    ),
    Noise(
        "No CUDA runtime is found, using CUDA_HOME='%s'",
        "that there is no GPU is known",
        logger="torch.utils.cpp_extension",
    ),
    Noise(
        "CPU RNG state changed within GPU RNG context",
        "without a GPU both are one generator, so that every layer changes it",
        logger="megatron.core.tensor_parallel.random",
    ),
)
"""Of a run on a CPU; on a GPU they say that it is slower than it could be, or not repeatable."""

OF_MEGATRON_ALONE = (
    Noise(
        "MimoModelConfig is experimental and still under active development. The API may change "
        "without notice in future releases.",
        "Megatron imports it whatever model is trained",
    ),
    Noise(
        "`torch.distributed.all_gather_into_tensor` is deprecated. Please use "
        "`torch.distributed.all_gather_single` instead.",
        "the call is Megatron's, which alone can change it",
    ),
)
"""Of a run anywhere."""


def leave_out(noises: Sequence[Noise]) -> None:
    """Leave them out from now on; to be called before what they come from is imported."""
    for noise in noises:
        if noise.logger:
            logging.getLogger(noise.logger).addFilter(partial(_is_another, noise.text))
        else:
            warnings.filterwarnings("ignore", rf"{re.escape(noise.text)}\Z", append=True)


def _is_another(text: str, record: logging.LogRecord) -> bool:
    return record.msg != text
