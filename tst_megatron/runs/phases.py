"""Which steps of a run saw bags of which size.

The one idea: the header's schedule, in samples, gives the switch to the step; the step lines, which
come once a log interval, bear it out. Where the two disagree (a batch-size ramp, a schedule changed
at a restart) the lines are believed. A switch decided by measurement is in the validation line that
led to it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any, NamedTuple

from tst_megatron.runs.ledger import Ledger


@dataclass(frozen=True)
class Phase:
    """Consecutive steps of one bag size.

    Attributes:
        stage: index in the schedule.
        bag_size: s, tokens a position; 1 is ordinary training.
        first_step: counted from 1.
        last_step: the last one the run got to.
    """

    stage: int
    bag_size: int
    first_step: int
    last_step: int


class Logged(NamedTuple):
    """What a logged step tells of its phase; without a bag size it agrees with any."""

    step: int
    stage: int
    bag_size: int | None


def phases_of(ledger: Ledger) -> tuple[Phase, ...]:
    """The phases a run went through, up to its last line; none for a run without progress."""
    last = ledger.last
    if last is None:
        return ()
    logged = [
        Logged(line["step"], line.get("stage") or 0, line.get("bag_size")) for line in ledger.steps
    ]
    decided = next((v["switch_step"] for v in ledger.validations if v.get("switch_step")), None)
    return phases_from(ledger.header, logged, last["step"], decided)


def phases_from(
    header: Mapping[str, Any],
    logged: Sequence[Logged],
    last_step: int,
    decided: int | None = None,
) -> tuple[Phase, ...]:
    """The phases of a run from its schedule and what it logged.

    Args:
        header: with ``superposition`` and the batch size among ``flags``, where they are known.
        logged: of the logged steps, ascending.
        last_step: the run got to.
        decided: after which step the superposed stage ended, where measurement decided that.
    """
    stages = _stages(header)
    if stages and decided is not None:
        # The header was written before, with the latest switch there may be.
        stages = [(stages[0][0], decided)]
    phases = () if stages is None else _clipped(stages, last_step)
    if phases and all(_agrees(line, phases) for line in logged):
        return phases
    return _from_lines(logged, last_step)


def phase_name(bag_size: int) -> str:
    """What a phase is called in charts and tables."""
    return "single tokens" if bag_size == 1 else f"bags of {bag_size}"


def _stages(header: Mapping[str, Any]) -> list[tuple[int, int]] | None:
    """(bag size, last step) of the superposed stages; None if the header does not give their steps.

    The ordinary stage after them goes on to the end of the run.
    """
    superposition = header.get("superposition")
    if superposition is None:
        return []
    stages = superposition.get("stages", [])
    if stages and stages[-1][0] == 1:
        stages = stages[:-1]
    batch_size = (header.get("flags") or {}).get("global_batch_size")
    ends = list(accumulate(samples for _, samples in stages))
    if not isinstance(batch_size, int) or batch_size < 1 or any(end % batch_size for end in ends):
        return None
    return [(stage[0], end // batch_size) for stage, end in zip(stages, ends, strict=True)]


def _clipped(stages: list[tuple[int, int]], last_step: int) -> tuple[Phase, ...]:
    """The stages as far as the run got."""
    phases, start = [], 0
    for stage, (bag_size, end) in enumerate([*stages, (1, last_step)]):
        stop = min(end, last_step)
        if stop > start:
            phases.append(Phase(stage, bag_size, start + 1, stop))
        start = max(start, stop)
    return tuple(phases)


def _agrees(line: Logged, phases: tuple[Phase, ...]) -> bool:
    return any(
        phase.first_step <= line.step <= phase.last_step and line.bag_size in (None, phase.bag_size)
        for phase in phases
    )


def _from_lines(logged: Sequence[Logged], last_step: int) -> tuple[Phase, ...]:
    """As the step lines have it: a switch is known to within a log interval.

    Lines without a bag size, of a source that samples its series apart, are of the phase of those
    around them.
    """
    phases, start = [], 0
    telling = [line for line in logged if line.bag_size is not None] or logged
    for bag_size, group in groupby(telling, key=lambda line: line.bag_size or 1):
        lines = list(group)
        # A stage that is not told is 0.
        stage, end = max(line.stage for line in lines), lines[-1].step
        phases.append(Phase(stage, bag_size, start + 1, end))
        start = end
    if phases and phases[-1].last_step < last_step:
        tail = phases.pop()
        phases.append(Phase(tail.stage, tail.bag_size, tail.first_step, last_step))
    return tuple(phases)
