"""Several methods in one run, in the order of the registry.

The one idea: what one method gives is what the next is given, so none needs to know of another;
what can be made by one alone, such as the training data, is made by one or refused. What a method
remembers, and whether a resume is the same run, is asked of each of the `parts`.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from tst_megatron.methods.events import Listener
from tst_megatron.methods.forms import Forms
from tst_megatron.methods.method import Evaluation, MicroBatch, Positions, Run
from tst_megatron.runs.stages import CombinationError, Stage, merged


class Composed(Run):
    """Runs of several methods as one.

    Args:
        runs: in the order in which they are applied; two at least.

    Raises:
        CombinationError: two of them make the training data, and not the one in the other's forms.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = tuple(runs)
        self._maker = _maker(runs)
        self.name = ", ".join(run.name for run in runs)

    @property
    def parts(self) -> tuple[Run, ...]:
        """They, in their order."""
        return self._runs

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Cut wherever one of the methods cuts."""
        return merged([run.stages for run in self._runs])

    def stages_of(self, train_iters: int) -> tuple[Stage, ...]:
        """Likewise."""
        return merged([run.stages_of(train_iters) for run in self._runs])

    def check(self, args: argparse.Namespace) -> None:
        """Every method's."""
        for run in self._runs:
            run.check(args)

    @property
    def reads_text_once(self) -> bool:
        """Whether one does."""
        return any(run.reads_text_once for run in self._runs)

    def text(self, train_iters: int, seq_length: int) -> Sequence[Any] | None:
        """Of the method that makes the training data."""
        return None if self._maker is None else self._maker.text(train_iters, seq_length)

    def held_out_text(self, num_samples: int, seq_length: int) -> Any | None:
        """Likewise."""
        return None if self._maker is None else self._maker.held_out_text(num_samples, seq_length)

    def forms_of(self, train_iters: int) -> Forms | None:
        """Of the method that has text in forms; there is one at most."""
        found = (run.forms_of(train_iters) for run in self._runs)
        return next((forms for forms in found if forms is not None), None)

    def parents(self) -> Sequence[Any]:
        """All that was spent."""
        return tuple(parent for run in self._runs for parent in run.parents())

    def configure_model(self, config: Any) -> Any:
        """One after the other."""
        for run in self._runs:
            config = run.configure_model(config)
        return config

    def load_checkpoint(
        self, load: Callable[..., Any], complete: Callable[[Any], Any]
    ) -> Callable[..., Any]:
        """One around the other."""
        for run in self._runs:
            load = run.load_checkpoint(load, complete)
        return load

    def goes_on_from(self, step: int) -> None:
        """Every method's."""
        for run in self._runs:
            run.goes_on_from(step)

    @property
    def makes_training_data(self) -> bool:
        """Whether one does."""
        return self._maker is not None

    def training_data(self, config: Any, is_built_on_rank: Callable[[], bool]) -> Any:
        """Of the one that makes it."""
        assert self._maker is not None, "asked for where makes_training_data says so"
        return self._maker.training_data(config, is_built_on_rank)

    def in_positions(self, sample: Mapping[str, Any]) -> tuple[Positions, Positions] | None:
        """Likewise."""
        found = (run.in_positions(sample) for run in self._runs)
        return next((positions for positions in found if positions is not None), None)

    def batch(self, wanted: MicroBatch, ordinary: Callable[[], Any]) -> Any:
        """One around the other."""
        make = ordinary
        for run in self._runs:
            make = partial(run.batch, wanted, make)
        return make()

    def flops(self, args: argparse.Namespace, samples: int, ordinary: float) -> float:
        """One after the other."""
        for run in self._runs:
            ordinary = run.flops(args, samples, ordinary)
        return ordinary

    def shares_at_work(self, chunk: Any) -> Mapping[str, float]:
        """Of all of them: a share of a share."""
        found: dict[str, float] = {}
        for run in self._runs:
            for name, share in run.shares_at_work(chunk).items():
                found[name] = share * found.get(name, 1.0)
        return found

    def evaluations(self, stage: Stage) -> Sequence[Evaluation]:
        """All of them."""
        return tuple(one for run in self._runs for one in run.evaluations(stage))

    def listeners(self, args: argparse.Namespace) -> Sequence[Listener]:
        """All of them."""
        return tuple(one for run in self._runs for one in run.listeners(args))


def _maker(runs: Sequence[Run]) -> Run | None:
    """Who makes the training data: of two of whom one has text in forms, the other, in these."""
    makers = [run for run in runs if run.makes_training_data]
    if len(makers) < 2:
        return makers[0] if makers else None
    with_forms = [run for run in makers if run.has_forms]
    if len(makers) > 2 or len(with_forms) != 1:
        names = " and ".join(run.name for run in makers)
        raise CombinationError(f"{names} each make the training data")
    maker = next(run for run in makers if run is not with_forms[0])
    maker.read_in(with_forms[0].forms_of)
    return maker
