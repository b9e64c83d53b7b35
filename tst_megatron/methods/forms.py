"""In which form samples read their text, where a method has text in several.

The one idea: the form of a sample, and how many of that form came before it, follow from its index
alone. So each form has data of its own, read in order, and there is no state to save; and a method
that makes the training data in another shape can make it in forms as well, not knowing whose.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from tst_megatron.runs.stages import index_at, starts_of


@dataclass(frozen=True)
class FormStage:
    """Consecutive samples that are dealt out between two forms.

    Attributes:
        samples: in the stage.
        form: as the corpus calls it (`tst_megatron.corpora.forms`).
        share: of the samples that read it; the first n of them hold n times that, rounded.
        other: form of the rest.
    """

    samples: int
    form: str
    share: Fraction
    other: str

    def first(self, number: int) -> int:
        """How many of the first samples read `form`."""
        share = self.share
        return (2 * number * share.numerator + share.denominator) // (2 * share.denominator)


@dataclass(frozen=True)
class Forms:
    """The form of every sample of a run.

    Every sample index from 0 has one: those past the end belong to the last stage.

    Attributes:
        stages: at least one.
    """

    stages: tuple[FormStage, ...]

    @cached_property
    def _starts(self) -> tuple[int, ...]:
        return starts_of([stage.samples for stage in self.stages])

    @property
    def num_samples(self) -> int:
        """Samples of the whole run."""
        return sum(stage.samples for stage in self.stages)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The forms that samples read, in the order in which they first do."""
        found = []
        for stage, start in zip(self.stages, self._starts, strict=True):
            both = dict.fromkeys((stage.form, stage.other))
            spans = [(start, start + stage.samples)]
            found += [form for form in both if self.count(form, spans)]
        return tuple(dict.fromkeys(found))

    def at(self, index: int) -> str:
        """The form of a sample.

        Raises:
            IndexError: the index is negative.
        """
        number = index_at(self._starts, index)
        stage, within = self.stages[number], index - self._starts[number]
        return stage.form if stage.first(within + 1) > stage.first(within) else stage.other

    def count(self, form: str, spans: Sequence[tuple[int, int]]) -> int:
        """Samples of a form in spans of the run.

        Args:
            form: which.
            spans: first index, and the one after the last.
        """
        return sum(self._before(form, end) - self._before(form, begin) for begin, end in spans)

    def _before(self, form: str, index: int) -> int:
        """Samples of a form before an index."""
        number = index_at(self._starts, index)
        found = sum(_of(form, stage, stage.samples) for stage in self.stages[:number])
        return found + _of(form, self.stages[number], index - self._starts[number])


def _of(form: str, stage: FormStage, number: int) -> int:
    first = stage.first(number)
    return (first if form == stage.form else 0) + (number - first if form == stage.other else 0)
