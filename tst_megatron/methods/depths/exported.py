"""A routed model as transformers has it: routers as tensors, and what the rule needs as settings.

The one idea: a threshold is a setting and no weight, since libraries round weights to a model's
type, and a score is held against the number that it was in training.
"""

import argparse
from collections.abc import Mapping
from typing import Any

import torch

from tst_megatron.methods.depths.sizes import units_of
from tst_megatron.methods.own_model import OwnCode, OwnModel, OwnWeight, Reader

_ROUTER = "depth_router"


def own_model(
    before: Mapping[str, Any], args: argparse.Namespace, read: Reader, code: OwnCode
) -> OwnModel:
    """What routers add to a family's model.

    Args:
        before: what a checkpoint remembers of the method.
        args: Megatron's, of the checkpoint.
        read: gives its tensors.
        code: of the model's classes.
    """
    layers = [block - 1 for block, _ in before["blocks"]]
    has_threshold = before["sampling"] == "threshold"
    kept = {layer: _kept(layer) for layer in layers}
    return OwnModel(
        title="routed blocks",
        code=code,
        settings={
            "routed_layers": layers,
            "routed_capacities": [share for _, share in before["blocks"]],
            "routed_sampling": before["sampling"],
            "routed_thresholds": [
                _threshold(read(kept[layer][0]), read(kept[layer][1]), before["threshold_decay"])
                if has_threshold
                else None
                for layer in layers
            ],
        },
        weights=tuple(
            OwnWeight(f"{_ROUTER}.{name}", shape, layer)
            for layer in layers
            for name, shape in _shapes(int(args.hidden_size), before["sampling"]).items()
        ),
        read=frozenset(key for keys in kept.values() for key in keys),
    )


def _kept(layer: int) -> tuple[str, str]:
    """Keys of a router's threshold, and of the steps that it is an average of."""
    before = f"decoder.layers.{layer}.{_ROUTER}."
    return f"{before}threshold", f"{before}steps"


def _threshold(average: torch.Tensor, steps: torch.Tensor, decay: float) -> float:
    """As `router.DepthRouter` has it, in float32."""
    return float(average / (1 - decay ** steps.clamp(min=1)))


def _shapes(hidden_size: int, sampling: str) -> dict[str, tuple[int, ...]]:
    """Of a router's parameters."""
    shapes: dict[str, tuple[int, ...]] = {"weight": (hidden_size,)}
    if sampling == "predictor":
        units = units_of(hidden_size)
        shapes |= {"down": (units, hidden_size), "up": (units,)}
    return shapes
