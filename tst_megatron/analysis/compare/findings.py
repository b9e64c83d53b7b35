"""What a report shows, whole: the runs of both sides and what was found of them."""

from dataclasses import dataclass

from tst_megatron.analysis.compare.groups import Group
from tst_megatron.analysis.compare.result import Comparison
from tst_megatron.statistics.interval import Interval

_WATTS_A_KILOWATT = 1000.0


@dataclass(frozen=True)
class Prices:
    """What a GPU hour is taken to need besides time.

    Attributes:
        per_gpu_hour: money, in the user's currency; None if not asked for.
        watts: of one GPU with its share of everything else; None if not asked for.
    """

    per_gpu_hour: float | None = None
    watts: float | None = None

    def cost(self, gpu_hours: Interval) -> Interval:
        """Money for so many GPU hours; empty where there is no price."""
        return _scaled(gpu_hours, self.per_gpu_hour)

    def energy_kwh(self, gpu_hours: Interval) -> Interval:
        """Kilowatt-hours for so many GPU hours; empty where the watts are not known."""
        return _scaled(gpu_hours, None if self.watts is None else self.watts / _WATTS_A_KILOWATT)


@dataclass(frozen=True)
class Findings:
    """What a report shows.

    Attributes:
        baseline: groups of ordinary runs, those first that the first comparison uses; none where
            a report is made before they are there.
        tst: groups of superposed runs, the lowest final held-out loss first; likewise.
        comparisons: of each TST group, in their order; none where a side is missing.
        reasons: why the comparison would be refused, where --force made it all the same.
        notes: what a reader should know, a sentence each.
        prices: for energy and cost.
        clocks_compare: hours of both sides are, as far as is known, of the same hardware.
    """

    baseline: tuple[Group, ...]
    tst: tuple[Group, ...]
    comparisons: tuple[Comparison, ...]
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    prices: Prices = Prices()
    clocks_compare: bool = True


def _scaled(interval: Interval, factor: float | None) -> Interval:
    if factor is None:
        return Interval()
    ends = (interval.value, interval.low, interval.high)
    return Interval(*(None if end is None else end * factor for end in ends))
