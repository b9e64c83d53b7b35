"""Bytes of a number: weights, gradients, optimizer and activations, as the flags have them.

The one idea: Megatron's precision flags, and what Transformer Engine keeps beside an FP8 weight,
as bytes a parameter.
"""

import argparse
import math
from dataclasses import dataclass

import torch

from tst_megatron.planner.hardware import Gpu

# FP8 numbers that share a scale, and the scale's bytes (transformer_engine/common/recipe): one
# float32 a tensor, blocks of 128 numbers (activations) or 128 x 128 (weights), blocks of 32.
_ACTIVATION_SCALE = {"delayed": 0.0, "tensorwise": 0.0, "blockwise": 4 / 128, "mxfp8": 1 / 32}
_WEIGHT_SCALE = {"delayed": 0.0, "tensorwise": 0.0, "blockwise": 4 / 128**2, "mxfp8": 1 / 32}
_BLACKWELL = 10


@dataclass(frozen=True)
class Precision:
    """Bytes of numbers in one run.

    Attributes:
        name: in words.
        compute: of an activation, and of a weight that is not FP8.
        fp8: Megatron's ``--fp8-recipe`` where the run is FP8, else None.
        fp8_copies: of an FP8 weight: one layout of it, or one for either pass.
        keeps_fp8_weights_only: ``--fp8-param-gather``: an FP8 weight has no bfloat16 beside it.
        gathered: of an FP8 layer's weight on its way through the parameter all-gather.
        gradient: of a gradient.
        optimizer: of a parameter in the optimizer: its float32 copy and Adam's two moments.
        saved: of a parameter in a checkpoint.
    """

    name: str
    compute: int
    fp8: str | None
    fp8_copies: float
    keeps_fp8_weights_only: bool
    gathered: int
    gradient: int
    optimizer: int
    saved: int

    @classmethod
    def of(cls, args: argparse.Namespace, gpu: Gpu) -> "Precision":
        """As the run's flags have it, on a GPU."""
        compute = 2 if args.bf16 or args.fp16 else 4
        fp8 = args.fp8_recipe if args.fp8 else None
        copies = 0.0
        if fp8:
            # Hopper multiplies rows by columns only, and so keeps the transpose of every weight;
            # blocks are scaled along either side. Blackwell reads one tensor-scaled copy both ways.
            both = fp8 not in ("delayed", "tensorwise") or gpu.capability[0] < _BLACKWELL
            copies = (2 if both else 1) * (1 + _WEIGHT_SCALE.get(fp8, 0.0))
        is_fp8_only = bool(fp8 and args.fp8_param_gather)
        if is_fp8_only and fp8 == "mxfp8" and not args.reuse_grad_buf_for_mxfp8_param_ag:
            # They are gathered in a buffer of their own.
            copies += compute
        master = 0 if compute == 4 else _master_weight(args, fp8)
        moments = (
            args.exp_avg_dtype.itemsize + args.exp_avg_sq_dtype.itemsize
            if args.use_precision_aware_optimizer
            else 8
        )
        return cls(
            name=_name(args, fp8),
            compute=compute,
            fp8=fp8,
            fp8_copies=copies,
            keeps_fp8_weights_only=is_fp8_only,
            # MXFP8's two layouts have scales of their own: it travels in bfloat16.
            gathered=1 if is_fp8_only and fp8 != "mxfp8" else compute,
            gradient=_gradient(args, compute),
            optimizer=master + moments,
            # A checkpoint's weights are not FP8, and its optimizer's states are float32 where
            # they were smaller (DistributedOptimizer.sharded_state_dict).
            saved=compute + (0 if compute == 4 else 4) + 8,
        )

    def quantized(self, numbers: int) -> int:
        """Bytes of activations as a linear layer keeps them for its weight's gradient."""
        if self.fp8 is None:
            return numbers * self.compute
        return math.ceil(numbers * (1 + _ACTIVATION_SCALE.get(self.fp8, 0.0)))


def _gradient(args: argparse.Namespace, compute: int) -> int:
    return 4 if compute == 4 or args.accumulate_allreduce_grads_in_fp32 else compute


def _master_weight(args: argparse.Namespace, fp8: str | None) -> int:
    """The optimizer's copy of a weight (megatron/core/optimizer/optimizer_config.py)."""
    if not args.use_precision_aware_optimizer:
        return 4
    managed_by_adam = args.main_params_dtype != torch.float32 or fp8 in (None, "delayed")
    remainders = getattr(args, "store_param_remainders", True)
    if managed_by_adam and remainders and args.main_params_dtype == torch.float32 and args.bf16:
        # --store-param-remainders: the 16 bits that the bfloat16 weight lacks.
        return 2
    return int(args.main_params_dtype.itemsize)


def _name(args: argparse.Namespace, fp8: str | None) -> str:
    if fp8:
        return f"fp8 {args.fp8}, {fp8}"
    return "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32"
