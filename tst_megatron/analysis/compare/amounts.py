"""What runs are laid over: steps, FLOPs, data tokens or GPU hours, in a unit that reads well."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tst_megatron.analysis.compare.result import EqualLoss
from tst_megatron.report import formats
from tst_megatron.statistics.interval import Interval

_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_WORDS = {3: "thousands", 6: "millions", 9: "billions", 12: "trillions"}
USED = ("steps", "positions", "data_tokens", "flops", "wall_clock_s", "gpu_hours")
"""What a curve and a series of steps tell of what a run has used up."""
# Ticks of fewer digits are read as they are.
_LEAST_SCALED = 1e5


@dataclass(frozen=True)
class Amount:
    """Something a run uses up.

    Attributes:
        field: its name in `Curve`, `StepSeries` and `Needed`.
        label: in words.
        less: how one says less of it.
        ratio_field: of its ratio in `EqualLoss`; None for data tokens, which a candidate may read
            more of by design.
        show: an amount of it in a table.
    """

    field: str
    label: str
    less: str = "fewer"
    ratio_field: str | None = None
    show: Callable[[float | None], str] = formats.count

    def needed(self, equal: EqualLoss) -> tuple[float | None, float | None]:
        """What the baseline and the candidate needed of it to get to a loss."""
        baseline, candidate = (
            getattr(side, self.field).value for side in (equal.baseline, equal.candidate)
        )
        return baseline, candidate

    def ratio(self, equal: EqualLoss) -> Interval:
        """Baseline over candidate, where that is a saving."""
        found: Interval = getattr(equal, self.ratio_field) if self.ratio_field else Interval()
        return found

    def unit(self, most: float) -> tuple[float, str]:
        """What to divide by so that the largest has few digits, and the axis's label."""
        power = 3 * int(np.log10(most) // 3) if most >= _LEAST_SCALED else 0
        if power == 0:
            return 1.0, self.label
        if self.field == "flops":
            return 10.0**power, f"{self.label} (10{str(power).translate(_SUPERSCRIPTS)})"
        power = min(power, max(_WORDS))
        return 10.0**power, f"{self.label} ({_WORDS[power]})"


STEPS = Amount("steps", "steps", ratio_field="step_ratio")
FLOPS = Amount("flops", "FLOPs", ratio_field="flops_ratio", show=formats.flops)
DATA_TOKENS = Amount("data_tokens", "data tokens")
WALL_CLOCK = Amount("wall_clock_s", "wall-clock", "less", "wall_clock_ratio", formats.duration)
GPU_HOURS = Amount("gpu_hours", "GPU hours", ratio_field="gpu_hours_ratio", show=formats.amount)
