"""Two runs in plain numbers, for the demo's report.json: at equal FLOPs, and at equal loss.

The one idea: nothing is smoothed, fitted or given an interval, as `compare` does it; validations
are points on a curve, straight between them. A loss counts as reached only where the curve gets to
it for good, so a lucky dip does not. Whatever part of the two runs is there is told.
"""

import bisect
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from tst_megatron.analysis.compare.stories import facts_in_full, vocabulary
from tst_megatron.runs.facts import facts_of
from tst_megatron.runs.ledger import Ledger
from tst_megatron.runs.spans import spans_of
from tst_megatron.strict_json import finite

# Megatron sums FLOPs in floating point, so equal counts may differ in their last digits.
_FLOPS_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Curve:
    """The validations of a run, one entry each, ascending.

    Attributes:
        steps: optimizer steps.
        wall_clock_s: seconds since the start of the process.
        flops: floating-point operations so far.
        losses: held-out next-token loss, nats a token; infinite where it was not a number, so that
            no loss counts as reached there.
    """

    steps: tuple[int, ...] = ()
    wall_clock_s: tuple[float, ...] = ()
    flops: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()

    @classmethod
    def of(cls, ledger: Ledger | None) -> "Curve":
        """The curve of a run; empty for a run that is missing."""
        lines = [] if ledger is None else ledger.validations
        return cls(
            tuple(line["step"] for line in lines),
            tuple(line["wall_clock_s"] for line in lines),
            tuple(line["flops"] for line in lines),
            tuple(_finite_or_infinite(line.get("next_token_loss")) for line in lines),
        )

    @property
    def final_loss(self) -> float | None:
        """Loss of the last validation, nats a token; None without one or if it is not a number."""
        return self.losses[-1] if self.losses and math.isfinite(self.losses[-1]) else None


class Crossing(NamedTuple):
    """Where a run got to a loss: a step and a time, in seconds, between two validations."""

    step: float
    wall_clock_s: float


@dataclass(frozen=True)
class RunSummary:
    """What a run consumed up to its last line, and where it ended.

    Attributes:
        steps: optimizer steps.
        positions: positions the transformer computed on.
        data_tokens: tokens read; s a position in bags of s.
        flops: floating-point operations.
        wall_clock_s: seconds since the start of the process.
        final_validation_loss: held-out next-token loss of the last validation, nats a token.
        phases: which steps were of which stage.
    """

    steps: int
    positions: int
    data_tokens: int
    flops: float
    wall_clock_s: float
    final_validation_loss: float | None
    phases: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class EqualLoss:
    """The runs at one loss.

    Attributes:
        loss: nats a token: the higher of the two final losses, which both runs reach.
        step_ratio: baseline's steps over the TST run's; above 1 the TST run saved steps.
        wall_clock_ratio: the same of wall-clock.
        reached: the baseline reached the TST run's final loss.
    """

    loss: float | None = None
    step_ratio: float | None = None
    wall_clock_ratio: float | None = None
    reached: bool = False


def figures(baseline: Ledger | None, tst: Ledger | None) -> dict[str, Any]:
    """What the runs consumed and how they compare, ready for strict JSON.

    Keys: ``baseline`` and ``tst``, a `RunSummary` each or None; ``equal_flops`` with its
    ``loss_difference``; ``equal_loss``; ``partial``, whether a run is missing or was cut short.

    Args:
        baseline: the ordinary run; None if it is missing.
        tst: the run with superposition; None if it is missing.
    """
    theirs, ours = Curve.of(baseline), Curve.of(tst)
    found: dict[str, Any] = finite(
        {
            "baseline": None if baseline is None else asdict(summarise(baseline)),
            "tst": None if tst is None else asdict(summarise(tst)),
            "equal_flops": {"loss_difference": equal_flops(theirs, ours)},
            "equal_loss": asdict(equal_loss(theirs, ours)),
            "partial": not (_is_whole(baseline) and _is_whole(tst)),
        }
    )
    return found


def summarise(ledger: Ledger) -> RunSummary:
    """A run at its last line; zeros for one without progress."""
    last: dict[str, Any] = ledger.last or {}
    return RunSummary(
        steps=last.get("step", 0),
        positions=last.get("positions", 0),
        data_tokens=last.get("data_tokens", 0),
        flops=last.get("flops", 0.0),
        wall_clock_s=last.get("wall_clock_s", 0.0),
        final_validation_loss=Curve.of(ledger).final_loss,
        phases=tuple(
            {
                "stage": span.index,
                **facts_in_full(span),
                "first_step": span.first_step,
                "last_step": span.last_step,
            }
            for span in spans_of(ledger, facts_of(ledger.header), vocabulary())
        ),
    )


def crossing(curve: Curve, loss: float | None) -> Crossing | None:
    """Where a run gets to a loss for good: every later validation is at or below it.

    A run whose first validation is already there is taken to get there at that validation.

    Args:
        curve: of the run.
        loss: nats a token; None is never reached.
    """
    if loss is None:
        return None
    above = [index for index, value in enumerate(curve.losses) if not value <= loss]
    after = above[-1] + 1 if above else 0
    if after == len(curve.losses):
        return None
    if not above or math.isinf(curve.losses[after - 1]):
        return Crossing(float(curve.steps[after]), curve.wall_clock_s[after])
    before = after - 1
    share = (curve.losses[before] - loss) / (curve.losses[before] - curve.losses[after])
    return Crossing(
        _between(curve.steps[before], curve.steps[after], share),
        _between(curve.wall_clock_s[before], curve.wall_clock_s[after], share),
    )


def equal_loss(baseline: Curve, tst: Curve) -> EqualLoss:
    """Steps and wall-clock of both runs to the higher of their final losses.

    That is the TST run's where the baseline reaches it, else the baseline's. Without a final loss
    of either run there is nothing to tell.
    """
    if baseline.final_loss is None or tst.final_loss is None:
        return EqualLoss()
    reached = crossing(baseline, tst.final_loss) is not None
    loss = tst.final_loss if reached else baseline.final_loss
    ours, theirs = crossing(tst, loss), crossing(baseline, loss)
    if ours is None or theirs is None:
        return EqualLoss(loss=loss, reached=reached)
    return EqualLoss(
        loss,
        _ratio(theirs.step, ours.step),
        _ratio(theirs.wall_clock_s, ours.wall_clock_s),
        reached,
    )


def equal_flops(baseline: Curve, tst: Curve) -> float | None:
    """TST's loss less the baseline's at the largest FLOPs count that both have validations up to.

    The run that went further is interpolated there; no run is extrapolated.
    """
    if not baseline.flops or not tst.flops:
        return None
    ends = baseline.flops[-1], tst.flops[-1]
    at_end = math.isclose(*ends, rel_tol=_FLOPS_TOLERANCE)
    flops = min(ends)
    theirs = baseline.losses[-1] if at_end else interpolate(baseline.flops, baseline.losses, flops)
    ours = tst.losses[-1] if at_end else interpolate(tst.flops, tst.losses, flops)
    if ours is None or theirs is None or not math.isfinite(ours - theirs):
        return None
    return ours - theirs


def interpolate(xs: Sequence[float], ys: Sequence[float], x: float) -> float | None:
    """y at x on straight lines between the points; None outside them.

    Args:
        xs: ascending; of points with one x the first counts.
        ys: as many.
        x: where.
    """
    after = bisect.bisect_left(xs, x)
    if after == len(xs) or (after == 0 and xs[0] != x):
        return None
    if xs[after] == x:
        return ys[after]
    before = after - 1
    return _between(ys[before], ys[after], (x - xs[before]) / (xs[after] - xs[before]))


def _is_whole(ledger: Ledger | None) -> bool:
    """The run is there, did every step it was to do, and has a final loss."""
    if ledger is None or Curve.of(ledger).final_loss is None:
        return False
    planned = ledger.header.get("flags", {}).get("train_iters") or 0
    return summarise(ledger).steps >= planned


def _between(start: float, end: float, share: float) -> float:
    return start + share * (end - start)


def _ratio(baseline: float, tst: float) -> float | None:
    return baseline / tst if tst > 0 else None


def _finite_or_infinite(loss: float | None) -> float:
    return loss if loss is not None and math.isfinite(loss) else math.inf
