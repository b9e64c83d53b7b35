"""Token superposition as a method: its flags, and the stages that they make of a run."""

import argparse

from tst_megatron.methods.method import Method, Run
from tst_megatron.methods.superposition.arguments import (
    add_tst_arguments,
    check_flags,
    superposition_from_args,
)
from tst_megatron.methods.superposition.schedule_flags import (
    data_schedule,
    schedule_of_steps,
    superposes,
)
from tst_megatron.methods.superposition.terms import SuperpositionTerms
from tst_megatron.methods.terms import Terms
from tst_megatron.runs.stages import NEXT_TOKEN_LOSS, ORDINARY, Stage
from tst_megatron.stock.batch_sizes import train_steps


class SuperposedRun(Run):
    """A run that superposes.

    Args:
        args: checked flags, with the length of the run.

    Raises:
        UserError: a stage rounds to 0 steps, or the run has no number of steps.
    """

    name = "superposition"

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self.superposition = superposition_from_args(args)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The superposed ones, and the ordinary one."""
        return self.stages_of(train_steps(self._args))

    def stages_of(self, train_iters: int) -> tuple[Stage, ...]:
        """Likewise."""
        schedule = schedule_of_steps(self._args)(train_iters)
        read = data_schedule(schedule, self._args.tst_superpose)
        return tuple(
            Stage(
                name=ORDINARY if stage.bag_size == 1 else f"bags of {stage.bag_size}",
                samples=stage.num_samples,
                tokens_a_position=data.bag_size,
                loss=NEXT_TOKEN_LOSS if stage.bag_size == 1 else "bag loss",
                method="" if stage.bag_size == 1 else self.name,
                facts={"bag_size": stage.bag_size},
            )
            for stage, data in zip(schedule.stages, read.stages, strict=True)
        )


class SuperpositionMethod(Method):
    """Bags of tokens in, the next bag out, then ordinary training (arXiv 2605.06546)."""

    name = "superposition"
    flag_prefix = "tst"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """The ``--tst-*`` group."""
        add_tst_arguments(parser)

    def check(self, args: argparse.Namespace) -> None:
        """As `check_flags`."""
        check_flags(args)

    def is_on(self, args: argparse.Namespace) -> bool:
        """With ``--tst-bag-size`` or ``--tst-schedule``."""
        return superposes(args)

    def run(self, args: argparse.Namespace) -> Run:
        """As `SuperposedRun`."""
        return SuperposedRun(args)

    def terms(self) -> Terms:
        """As `SuperpositionTerms`."""
        return SuperpositionTerms()


METHOD = SuperpositionMethod()
