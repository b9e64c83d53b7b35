"""Token superposition for any Megatron-Core script; needs torch and megatron.core only."""

from tst_megatron.superposition.bags import EMPTY, bag_weights
from tst_megatron.superposition.loss import multi_hot_cross_entropy
from tst_megatron.superposition.model import (
    BagObjective,
    SuperposedGPTModel,
    SuperposedHybridModel,
    superpose,
)
from tst_megatron.superposition.schedule import BagSchedule, ScheduleError, Stage

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
