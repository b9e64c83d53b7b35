"""Which steps of a run were of which stage.

The one idea: the header's stages, in samples, give the switch to the step; the step lines, which
come once a log interval, bear it out. Where the two disagree (a batch-size ramp, a schedule changed
at a restart) the lines are believed. A switch decided by measurement is in the validation line that
led to it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

from tst_megatron.runs.facts import Facts, facts_of
from tst_megatron.runs.ledger import SCHEMA_VERSION, Ledger
from tst_megatron.runs.old_schemas import header_of_old, line_of_old
from tst_megatron.runs.stages import Fact, Stage, Vocabulary, merged, ordinary_stage

SWITCH_STEP = "switch_step"
"""The fact of a validation that says after which step the first stage ends, if it decided that."""


@dataclass(frozen=True)
class Span:
    """Consecutive steps of one stage.

    Attributes:
        index: of the stage in the schedule.
        stage: what the steps were of; its samples are those that were planned, 0 where unknown.
        first_step: counted from 1.
        last_step: the last one the run got to.
    """

    index: int
    stage: Stage
    first_step: int
    last_step: int

    @property
    def num_steps(self) -> int:
        """In the span."""
        return self.last_step - self.first_step + 1


@dataclass(frozen=True)
class _Logged:
    """What a logged step tells of its stage; without facts (None) it agrees with any."""

    step: int
    index: int
    facts: Mapping[str, Fact] | None
    loss: str | None

    def is_of(self, stage: Stage) -> bool:
        """Whether it tells nothing else."""
        if self.facts is None or self.facts == stage.facts:
            return True
        # An earlier start knew nothing of a method that the run has gone on with, such as growth.
        return self.facts.items() <= stage.facts.items() and self.loss == stage.loss


def spans_of(ledger: Ledger, facts: Facts, vocabulary: Vocabulary) -> tuple[Span, ...]:
    """The stages that a run went through, up to its last line; none where nothing tells of them.

    Args:
        ledger: of the run.
        facts: of its header.
        vocabulary: names stages that only step lines tell of.
    """
    if ledger.last is None:
        return ()
    last_step = int(ledger.last["step"])
    logged = [
        _Logged(line["step"], line.get("stage") or 0, line.get("facts"), line.get("loss_name"))
        for line in ledger.steps
    ]
    stages = _told_stages(facts)
    ends = None if stages is None else _ends(stages, facts)
    if ends:
        # The header was written before a decision, with the latest switch there may be.
        decided = (line["facts"].get(SWITCH_STEP) for line in ledger.validations if line["facts"])
        switch = next((step for step in decided if step), None)
        if switch is not None:
            ends = [int(switch)]
    if stages is not None and ends is not None:
        spans = _clipped(stages, ends, last_step)
        if all(_agrees(line, spans) for line in logged):
            return spans
    if facts.methods is None and not any(line.facts for line in logged):
        return ()
    return _from_lines(logged, last_step, stages or (), vocabulary)


def stage_name(header: Mapping[str, Any], line: Mapping[str, Any]) -> str:
    """What the stage of a step is called, from lines of a ledger as they were written.

    Args:
        header: of any schema.
        line: of a step, of the same one.
    """
    if header.get("schema_version", 1) < SCHEMA_VERSION:
        header = header_of_old(header)
        line = line_of_old(line, header)
    stages = _told_stages(facts_of(header)) or ()
    return _stage(line.get("facts") or {}, line.get("stage") or 0, stages, Vocabulary()).name


def _told_stages(facts: Facts) -> Sequence[Stage] | None:
    """As the header has them; None if it does not."""
    if facts.methods is None or not all(method.stages for method in facts.methods):
        return None
    if not facts.methods:
        return [ordinary_stage(0)]
    try:
        return merged([method.stages for method in facts.methods])
    except ValueError:
        # No run can have had them together.
        return None


def _ends(stages: Sequence[Stage], facts: Facts) -> list[int] | None:
    """Last steps of all stages but the last; None if the header does not give their steps.

    The last stage goes on to the end of the run.
    """
    ends = list(accumulate(stage.samples for stage in stages[:-1]))
    size = facts.batch_size
    if ends and (size is None or any(end % size for end in ends)):
        return None
    return [end // (size or 1) for end in ends]


def _clipped(stages: Sequence[Stage], ends: Sequence[int], last_step: int) -> tuple[Span, ...]:
    """The stages as far as the run got."""
    spans, start = [], 0
    used = [*stages[: len(ends)], stages[-1]]
    for index, (stage, end) in enumerate(zip(used, [*ends, last_step], strict=True)):
        stop = min(end, last_step)
        if stop > start:
            spans.append(Span(index, stage, start + 1, stop))
        start = max(start, stop)
    return tuple(spans)


def _agrees(line: _Logged, spans: Sequence[Span]) -> bool:
    return line.facts is None or any(
        span.first_step <= line.step <= span.last_step and line.is_of(span.stage) for span in spans
    )


def _from_lines(
    logged: Sequence[_Logged], last_step: int, stages: Sequence[Stage], vocabulary: Vocabulary
) -> tuple[Span, ...]:
    """As the step lines have it: a switch is known to within a log interval.

    Lines without facts, of a source that samples its series apart, are of the stage of those around
    them.
    """
    spans: list[Span] = []
    telling = [line for line in logged if line.facts is not None] or logged
    for facts, group in groupby(telling, key=lambda line: dict(line.facts or {})):
        lines = list(group)
        # A stage that is not told is 0.
        index = max(line.index for line in lines)
        start = spans[-1].last_step if spans else 0
        spans.append(
            Span(index, _stage(facts, index, stages, vocabulary), start + 1, lines[-1].step)
        )
    if spans and spans[-1].last_step < last_step:
        tail = spans.pop()
        spans.append(Span(tail.index, tail.stage, tail.first_step, last_step))
    return tuple(spans)


def _stage(
    facts: Mapping[str, Fact], index: int, stages: Sequence[Stage], vocabulary: Vocabulary
) -> Stage:
    """The header's stage of that place, if it has these facts, else what methods call it."""
    if index < len(stages) and stages[index].facts == facts:
        return stages[index]
    return vocabulary.stage(facts)
