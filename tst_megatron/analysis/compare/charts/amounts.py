"""What runs are laid over: steps, FLOPs, data tokens or GPU hours, in a unit that reads well."""

from dataclasses import dataclass

import numpy as np

from tst_megatron.analysis.compare.result import EqualLoss
from tst_megatron.statistics.interval import Interval

_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_WORDS = {3: "thousands", 6: "millions", 9: "billions", 12: "trillions"}
# Ticks of fewer digits are read as they are.
_LEAST_SCALED = 1e5


@dataclass(frozen=True)
class Amount:
    """Something a run uses up.

    Attributes:
        field: its name in `Curve`, `StepSeries` and `Needed`.
        label: in words.
        less: how one says less of it.
        ratio_field: of its ratio in `EqualLoss`; None for data tokens, which TST reads more of by
            design.
    """

    field: str
    label: str
    less: str = "fewer"
    ratio_field: str | None = None

    def needed(self, equal: EqualLoss) -> tuple[float | None, float | None]:
        """What the baseline and TST needed of it to get to a loss."""
        baseline, tst = (getattr(side, self.field).value for side in (equal.baseline, equal.tst))
        return baseline, tst

    def ratio(self, equal: EqualLoss) -> Interval:
        """Baseline over TST, where that is a saving."""
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
FLOPS = Amount("flops", "FLOPs", ratio_field="flops_ratio")
DATA_TOKENS = Amount("data_tokens", "data tokens")
WALL_CLOCK = Amount("wall_clock_s", "wall-clock", "less", "wall_clock_ratio")
GPU_HOURS = Amount("gpu_hours", "GPU hours", ratio_field="gpu_hours_ratio")
