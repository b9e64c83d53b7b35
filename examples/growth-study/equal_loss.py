"""How many FLOPs a control needs for the loss that another kind of run ends with.

The one idea: a control's whole runs of several lengths, each with a decay of its own, tell the loss
over FLOPs, straight over their logarithm between two lengths and not told outside them. All ends
are drawn many times with the seeds' scatter, and the interval is that of the crossings.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from kinds import CONFIDENCE, Kind

from tst_megatron.statistics.array import Array
from tst_megatron.statistics.crossing import crossing_steps
from tst_megatron.statistics.interval import Interval
from tst_megatron.statistics.resampling import Sample, interval, resample

_DRAWS = 2000


@dataclass(frozen=True)
class Needed:
    """FLOPs of a control over those of a kind, at the kind's loss: above 1 the kind needs less.

    Attributes:
        ratio: with its interval, an end of which may have no bound; empty where nothing is
            measured.
        how: one of the words below, or beyond which length the loss lies.
    """

    ratio: Interval
    how: str


MEASURED, ONE_SEED, NO_OTHER_LENGTH = "measured", "one seed", "no other length"
"""How a ratio is known: with an interval; without one; not at all, the control having one length.
Beyond a control's lengths it says which side of them."""
NOTHING = Needed(Interval(), "")
"""Of a control that is not there, or that is the kind itself."""


def needed(kind: Kind, control: Kind, others: Sequence[Kind]) -> Needed:
    """What a control needs for the mean loss of a kind.

    Args:
        kind: whose loss it is.
        control: of the kind's length.
        others: controls of other lengths, of any model.
    """
    alike = [replace(one.run, length=1.0) == control.run for one in others]
    by_length = sorted(
        [control, *(one for one, is_alike in zip(others, alike, strict=True) if is_alike)],
        key=lambda one: one.run.length,
    )
    if len(by_length) == 1:
        return Needed(Interval(), NO_OTHER_LENGTH)
    # The control of the kind's own length comes first, as seeds are paired with that one's.
    order = sorted(by_length, key=lambda one: one is not control)
    drawn = resample([*map(_sample, order), _sample(kind)], _DRAWS, 0)
    ends = {id(one): copies.points[:, 0] for one, copies in zip(order, drawn.copies, strict=False)}
    curves = np.column_stack([ends[id(one)] for one in by_length])
    flops = np.array([one.flops for one in by_length], np.float64)
    spent = _crossings(flops, curves, drawn.copies[-1].points[:, 0])
    return _told(spent / (kind.flops or np.nan), by_length, drawn.between_readings)


def _sample(kind: Kind) -> Sample:
    """The ends of a kind as curves of one point each."""
    readings = np.array([[end.loss] for end in kind.ends.values()])
    stderrs = [end.stderr for end in kind.ends.values()]
    known = bool(np.isfinite(stderrs).all() and min(stderrs) > 0)
    stderr = float(np.sqrt(np.mean(np.square(stderrs)) / len(stderrs))) if known else 1.0
    return Sample(
        steps=np.array([1.0]),
        readings=readings,
        stderrs=np.array([stderr]),
        freedom=np.inf if known else 0.0,
        segments=np.array([0]),
        names=tuple(kind.ends),
    )


def _crossings(flops: Array, curves: Array, levels: Array) -> Array:
    """FLOPs ``[rows]`` to the levels; infinite beyond the longest, negative infinite below the
    shortest.

    In a copy in which a longer run ended higher than a shorter one it counts as the shorter did:
    who has its FLOPs can stop at the shorter.
    """
    falling = np.minimum.accumulate(curves, axis=1)
    found = crossing_steps(flops, falling, levels)
    return np.where(falling[:, 0] <= levels, -np.inf, found)


def _told(ratios: Array, by_length: Sequence[Kind], has_interval: bool) -> Needed:
    shortest, longest = by_length[0].run.length, by_length[-1].run.length
    if ratios[0] == np.inf:
        return Needed(Interval(), f"more than {longest:g}×")
    if ratios[0] == -np.inf:
        return Needed(Interval(), f"less than {shortest:g}×")
    if not has_interval:
        return Needed(Interval(float(ratios[0])), ONE_SEED)
    return Needed(interval(ratios, CONFIDENCE), MEASURED)
