"""After which steps a run asks its model what it scores: the words of ``--evaluate-at``.

The one idea: the words are of the run, not of a start of it, so that every start reads the same
steps from them, and a step that is past is simply past.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from tst_megatron.errors import UserError
from tst_megatron.stock.batch_sizes import train_steps

_EVERY, _END = "every:", "end"


@dataclass(frozen=True)
class EvaluationSteps:
    """The steps that the words name.

    Attributes:
        steps: that are named by themselves; 0 is the model before the first.
        intervals: of which every multiple is one.
        last: of the run.
        has_end: whether the last is one of them.
    """

    steps: frozenset[int]
    intervals: tuple[int, ...]
    last: int
    has_end: bool

    def has(self, step: int) -> bool:
        """Whether the model is asked after a step."""
        return (
            step in self.steps
            or (self.has_end and step == self.last)
            or (step > 0 and any(step % interval == 0 for interval in self.intervals))
        )


def evaluation_steps(args: argparse.Namespace) -> EvaluationSteps:
    """Read them from the flags of a run that has any.

    Raises:
        UserError: a word is none, or names a step that the run does not have.
    """
    whole = train_steps(args)
    steps, intervals, has_end = _read(args.evaluate_at)
    named = [(str(step), step) for step in steps]
    for word, step in (*named, *((f"{_EVERY}{one}", one) for one in intervals)):
        if step > whole:
            raise UserError(
                f"--evaluate-at {word} is beyond the run, which has {whole:,} steps: give a step "
                "of them"
            )
    return EvaluationSteps(
        frozenset(steps), tuple(intervals), args.exit_after_step or whole, has_end
    )


def check_words(words: Sequence[str]) -> None:
    """Check the words by themselves.

    Raises:
        UserError: one is none.
    """
    _read(words)


def _read(words: Sequence[str]) -> tuple[list[int], list[int], bool]:
    steps, intervals, has_end = [], [], False
    for word in words:
        number = word.removeprefix(_EVERY)
        if word == _END:
            has_end = True
        elif not (number.isascii() and number.isdigit()) or (number != word and int(number) < 1):
            raise UserError(
                f"--evaluate-at {word} is no step: give steps such as 1000, {_EVERY}500, or {_END}"
            )
        elif number == word:
            steps.append(int(number))
        else:
            intervals.append(int(number))
    return steps, intervals, has_end
