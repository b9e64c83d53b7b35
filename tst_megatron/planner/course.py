"""What a run goes through: its stages, and what its methods change in the figures of each.

The one idea: the planner knows no method. Stages come from the run's methods, as the trainer has
them; figures go through the methods' terms.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise

from tst_megatron.methods.method import Method, Run
from tst_megatron.methods.registry import active, methods, run_of
from tst_megatron.methods.story import Told
from tst_megatron.methods.terms import Terms, Together
from tst_megatron.runs.stages import Fact, Stage
from tst_megatron.stock.batch_sizes import BatchSizes


@dataclass(frozen=True)
class Course:
    """A run under its methods.

    Attributes:
        stages: those that have any samples.
        terms: of the methods, all together.
        setting: what its methods call their settings; empty for an ordinary run.
        forms: that it reads its text in; none where it reads it as it is indexed.
    """

    stages: tuple[Stage, ...]
    terms: Terms
    setting: str = ""
    forms: tuple[str, ...] = ()

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Course":
        """By the flags, before or after Megatron's validation.

        Raises:
            UserError: the run has no length, or its stages do not fit it.
        """
        run = run_of(args)
        stages, on = run.stages, active(args)
        terms = Together([method.terms() for method in on])
        setting = ", ".join(filter(None, (_words(method, run, args) for method in on)))
        with_samples = tuple(stage for stage in stages if stage.samples) or stages[-1:]
        return cls(with_samples, terms, setting, run.form_names(args))

    @property
    def heaviest(self) -> Stage:
        """The first of the stages that read most: its step is the one that is predicted."""
        return max(self.stages, key=lambda stage: stage.tokens_a_position)

    def steps(self, args: argparse.Namespace) -> tuple[int, ...]:
        """Optimizer steps of every stage."""
        steps_of_samples = BatchSizes.from_args(args).steps_of_samples
        ends = [0, *accumulate(stage.samples for stage in self.stages)]
        after = [steps_of_samples(end) for end in ends]
        return tuple(end - start for start, end in pairwise(after))

    def facts(self) -> tuple[Mapping[str, Fact], ...]:
        """Of every stage; of methods that leave it alone, what they say of such a stage."""
        left_alone = _of_all_methods().facts
        return tuple({**left_alone, **stage.facts} for stage in self.stages)

    def totals(self, seq_length: int) -> Mapping[str, int]:
        """What all methods say of the whole run, by the keys of its JSON."""
        return _of_all_methods().totals(seq_length, self.stages)


def _words(method: Method, run: Run, args: argparse.Namespace) -> str:
    """What a method calls its settings, as a comparison has them."""
    own = next(part for part in run.parts if part.name == method.name)
    total = sum(stage.samples for stage in own.stages)
    stages = ((stage, stage.samples / total) for stage in own.stages if not stage.is_ordinary)
    return method.story().words(Told(tuple(stages), own.facts, vars(args)))


def _of_all_methods() -> Terms:
    """Of those that are not on, too, so that all plans have the same keys."""
    return Together([method.terms() for method in methods()])
