"""What a search of superposition goes over: the bag size, and its share of the steps."""

from dataclasses import dataclass

from tst_megatron.methods.search import Axis
from tst_megatron.runs.outcomes import Choice


@dataclass(frozen=True, order=True)
class Pair(Choice):
    """A bag size and the share of the steps in bags; the baseline is 1 and 0.

    Attributes:
        bag_size: s.
        step_ratio: r, above 0 and below 1 but for the baseline.
    """

    bag_size: int
    step_ratio: float

    @property
    def is_baseline(self) -> bool:
        """Whether nothing is superposed."""
        return self.bag_size == 1

    @property
    def name(self) -> str:
        """As in names of folders."""
        return "baseline" if self.is_baseline else f"s{self.bag_size}-r{self.step_ratio:g}"

    def __str__(self) -> str:
        if self.is_baseline:
            return "the baseline"
        return f"s = {self.bag_size}, r = {self.step_ratio:g}"


BASELINE = Pair(1, 0.0)
SIZE = Axis(
    name="bag_size",
    symbol="s",
    flag="--bag-sizes",
    metavar="S",
    help="to try; the baseline is always run beside them",
    label="bag size s",
    is_log=True,
)
SHARE = Axis(
    name="step_ratio",
    symbol="r",
    flag="--step-ratios",
    metavar="R",
    help="shares of the steps in bags, to try",
    label="share r of the steps in bags",
)
