"""Token superposition for any Megatron-Core script; needs torch and megatron.core only."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tst_megatron.methods.superposition.bags import EMPTY, bag_weights
    from tst_megatron.methods.superposition.loss import multi_hot_cross_entropy
    from tst_megatron.methods.superposition.model import (
        SuperposedGPTModel,
        SuperposedHybridModel,
        superpose,
    )
    from tst_megatron.methods.superposition.schedule import BagSchedule, Stage
    from tst_megatron.methods.superposition.settings import BagObjective
    from tst_megatron.methods.superposition.stage_lengths import ScheduleError

__all__ = [
    "EMPTY",
    "BagObjective",
    "BagSchedule",
    "ScheduleError",
    "Stage",
    "SuperposedGPTModel",
    "SuperposedHybridModel",
    "bag_weights",
    "multi_hot_cross_entropy",
    "superpose",
]

_MODULE_OF_NAME = {
    "EMPTY": "bags",
    "BagObjective": "settings",
    "BagSchedule": "schedule",
    "ScheduleError": "stage_lengths",
    "Stage": "schedule",
    "SuperposedGPTModel": "model",
    "SuperposedHybridModel": "model",
    "bag_weights": "bags",
    "multi_hot_cross_entropy": "loss",
    "superpose": "model",
}


def __getattr__(name: str) -> Any:
    # What needs the schedule alone, such as a budget, does not wait for Megatron.
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"tst_megatron.methods.superposition.{_MODULE_OF_NAME[name]}")
    return getattr(module, name)
