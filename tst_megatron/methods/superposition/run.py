"""Token superposition at work in one run: its part at every place where a run can be changed."""

import argparse
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from tst_megatron.corpora.parts import TextPart
from tst_megatron.errors import UserError
from tst_megatron.methods.events import Listener
from tst_megatron.methods.forms import Forms
from tst_megatron.methods.method import Evaluation, MicroBatch, Positions, Run
from tst_megatron.methods.superposition.flags import (
    loss_implementation,
    rounded_stages,
    schedule_of_steps,
)
from tst_megatron.methods.superposition.open_schedule import OpenSchedule
from tst_megatron.methods.superposition.resumption import (
    TEXT,
    in_steps,
    is_same_schedule,
    settings,
    sizes_read,
)
from tst_megatron.methods.superposition.schedule import BagSchedule
from tst_megatron.methods.superposition.schedule import Stage as BagStage
from tst_megatron.methods.superposition.settings import BAG_LOSS, BagObjective, Superposition
from tst_megatron.methods.superposition.text import held_out_text, text_of_stages
from tst_megatron.runs.stages import ORDINARY, CombinationError, Stage
from tst_megatron.stock.batch_sizes import train_steps

if TYPE_CHECKING:
    from tst_megatron.methods.superposition.switch import AutoSwitch

logger = logging.getLogger(__name__)


class SuperposedRun(Run):
    """A run that superposes.

    Args:
        args: checked flags; those of Megatron that say how long the run is, and for what is asked
            for in training all of them.

    Attributes:
        superposition: what the flags say.

    Raises:
        UserError: a stage rounds to 0 steps or does not fit, or the run has no number of steps.
    """

    name = "superposition"

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._as_given = schedule_of_steps(args)
        self._laid_out: tuple[BagStage, ...] | None = None
        self._forms_of: Callable[[int], Forms | None] = lambda train_iters: None
        self.superposition = Superposition(
            schedule=self._schedules(train_steps(args)),
            superpose=args.tst_superpose,
            bag_objective=BagObjective(args.tst_bag_weights, args.tst_objective),
            bag_boundary=args.tst_bag_boundary,
            loss_implementation=loss_implementation(args),
            logits_chunk_size=args.tst_logits_chunk_size,
        )

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The superposed ones, and the ordinary one."""
        return self._in_words(self.superposition.schedule)

    def stages_of(self, train_iters: int) -> tuple[Stage, ...]:
        """Likewise."""
        return self._in_words(self._schedules(train_iters))

    def _schedules(self, train_iters: int) -> BagSchedule:
        schedule = self._as_given(train_iters)
        if self._laid_out is None or self._laid_out == schedule.stages:
            return schedule
        return replace(schedule, laid_out=self._laid_out)

    def _in_words(self, schedule: BagSchedule) -> tuple[Stage, ...]:
        *superposed, ordinary = schedule.stages
        return (
            *(
                Stage(
                    name=ORDINARY if stage.bag_size == 1 else f"bags of {stage.bag_size}",
                    samples=stage.num_samples,
                    tokens_a_position=stage.bag_size if self.superposition.reads_bags else 1,
                    loss=BAG_LOSS,
                    method=self.name,
                    facts={"bag_size": stage.bag_size},
                )
                for stage in superposed
            ),
            Stage(ORDINARY, ordinary.num_samples, facts={"bag_size": 1}),
        )

    @property
    def facts(self) -> Mapping[str, Any]:
        """As a checkpoint remembers them."""
        return {name: value for name, value in self.saved().items() if name != TEXT}

    @cached_property
    def switch(self) -> "AutoSwitch | None":
        """What ends an open schedule's superposed stage; None for a fixed one."""
        schedule = self.superposition.schedule
        if not isinstance(schedule, OpenSchedule):
            return None
        from tst_megatron.methods.superposition.switch import AutoSwitch, rule_of

        return AutoSwitch(schedule, rule_of(self._args, schedule))

    def check(self, args: argparse.Namespace) -> None:
        """Check that a decision by measurement can be made, and in time; tell of rounded stages."""
        if args.rank == 0:
            for words in rounded_stages(args, self.superposition.schedule):
                logger.warning("%s.", words)
        if self.switch is not None:
            from tst_megatron.methods.superposition.switch import check_auto_switch

            check_auto_switch(args, self.switch.rule)

    def saved(self) -> dict[str, Any]:
        """What tells a resume under another schedule, and what a switch is decided on.

        Not how the loss is computed: a run may go on with another implementation, and with its
        logits in other chunks.
        """
        superposition = self.superposition
        stages = superposition.schedule.superposed_stages
        saved: dict[str, Any] = {
            "stages": [(stage.bag_size, stage.num_samples) for stage in stages],
            "superpose": superposition.superpose,
            "bag_weights": superposition.bag_objective.weights,
            "objective": superposition.bag_objective.objective,
            "bag_boundary": superposition.bag_boundary,
        }
        if self.switch is not None:
            saved["auto"] = self.switch.as_saved()
        text = superposition.schedule.text
        if text.stages != superposition.schedule.stages:
            saved[TEXT] = [(stage.bag_size, stage.num_samples) for stage in text.stages]
        return saved

    @property
    def ends_are_open(self) -> bool:
        """Under an open schedule, by what its switch measures."""
        return isinstance(self.superposition.schedule, OpenSchedule)

    def resume(self, args: argparse.Namespace, before: Any, step: int) -> None:
        """A superposed run goes on under the schedule it was started with, unless told otherwise.

        What has been measured for an open schedule is taken over.
        """
        is_same = before is not None and is_same_schedule(before, self.saved(), step)
        if not is_same and not args.allow_schedule_change:
            raise UserError(self._in_refusal(args, before))
        if before is None:
            return
        if self.switch is not None:
            if "auto" in before:
                from tst_megatron.methods.superposition.switch import take_over

                take_over(self.switch, before["auto"], step)
        elif is_same and before[TEXT] is not None:
            self._read_on(args, before[TEXT])

    def _read_on(self, args: argparse.Namespace, text: Sequence[tuple[int, int]]) -> None:
        """Go on in the documents that the checkpoint's run has shared out.

        Args:
            args: Megatron's validated arguments.
            text: bag size and samples of the stages by which it did.
        """
        laid_out = tuple(BagStage(*stage) for stage in text)
        has_all = sizes_read(self.superposition.schedule.stages) <= sizes_read(laid_out)
        if has_all or not self.superposition.reads_bags:
            self._laid_out = laid_out
            schedule = self._schedules(train_steps(args))
            self.superposition = replace(self.superposition, schedule=schedule)
        elif not args.allow_schedule_change:
            raise UserError(
                f"the run of the checkpoint in {args.load} was to end in bags, so all documents "
                "were shared out among them and none is left for the longer run: begin it anew, "
                "or add --allow-schedule-change to share them out again and read some twice"
            )

    def _in_refusal(self, args: argparse.Namespace, before: Any) -> str:
        """Why the run does not go on from a checkpoint, and what to do."""
        now = settings(self.saved())
        before = None if before is None else settings(before)
        instead = "use the same flags"
        if before is not None and before | {"stages": None} == now | {"stages": None}:
            steps = in_steps(before["stages"], args)
            if steps is not None:
                instead += f", or in a run of another length --tst-schedule {steps}"
        return (
            f"the checkpoint in {args.load} was trained under the schedule {json.dumps(before)} "
            f"and this run has {json.dumps(now)}: {instead}, or add --allow-schedule-change"
        )

    @property
    def reads_text_once(self) -> bool:
        """Its gain is of more text, not of the same again."""
        return True

    def text(self, train_iters: int, seq_length: int) -> Sequence[TextPart] | None:
        """A part for every bag size, where bags are read."""
        if not self.superposition.reads_bags:
            return None
        schedule = self._schedules(train_iters)
        forms = self._forms_of(train_iters)
        return text_of_stages(schedule, seq_length, self.superposition.bag_boundary, forms)

    def read_in(self, forms_of: Callable[[int], Forms | None]) -> None:
        """Bags of a form, in data of its own; not where the stages' ends are open."""
        if self.ends_are_open:
            raise CombinationError(
                "a schedule of bags that ends by measurement, and text in forms, whose samples are "
                "counted from the start"
            )
        self._forms_of = forms_of

    def held_out_text(self, num_samples: int, seq_length: int) -> TextPart | None:
        """Samples of the largest bags, where bags are read."""
        if not self.superposition.reads_bags:
            return None
        return held_out_text(self.superposition, num_samples, seq_length)

    def configure_model(self, config: Any) -> Any:
        """Every model chunk that Megatron builds is let read bags, before it is wrapped."""
        config.pre_wrap_hooks.append(
            partial(
                _superpose_all,
                bag_objective=self.superposition.bag_objective,
                has_empty_places=self.superposition.reads_empty_places,
                loss_implementation=self.superposition.loss_implementation,
                logits_chunk_size=self.superposition.logits_chunk_size,
            )
        )
        return config

    def goes_on_from(self, step: int) -> None:
        """What was measured after the step is forgotten."""
        if self.switch is not None:
            self.switch.go_back(step)

    @property
    def makes_training_data(self) -> bool:
        """Unless single tokens are read throughout."""
        return self.superposition.reads_bags

    def training_data(self, config: Any, is_built_on_rank: Callable[[], bool]) -> Any:
        """The phased view of Megatron's data sets."""
        from tst_megatron.methods.superposition.phased_dataset import build_phased_dataset

        superposition = self.superposition
        return build_phased_dataset(
            superposition.schedule,
            config,
            is_built_on_rank,
            superposition.bag_boundary,
            self._forms_of(train_steps(self._args)),
        )

    def in_positions(self, sample: Mapping[str, Any]) -> tuple[Positions, Positions] | None:
        """A bag a position."""
        from tst_megatron.methods.superposition.phased_dataset import in_positions

        return in_positions(sample)

    def batch(self, wanted: MicroBatch, ordinary: Callable[[], Any]) -> Any:
        """Bags in a superposed stage."""
        if wanted.stage.loss != BAG_LOSS:
            return ordinary()
        from tst_megatron.methods.superposition.batch import get_bags

        return get_bags(wanted, self.superposition, bag_size_of(wanted.stage))

    def evaluations(self, stage: Stage) -> Sequence[Evaluation]:
        """The loss on bags, in a stage of bags of more than one token.

        On bags of one the objective is the next-token loss itself.
        """
        if stage.loss != BAG_LOSS or bag_size_of(stage) == 1:
            return ()
        tokens = bag_size_of(stage) if self.superposition.reads_bags else 1
        return (Evaluation(BAG_LOSS, stage, tokens, partial(self._held_out, tokens)),)

    def _held_out(
        self,
        tokens_a_position: int,
        config: Any,
        num_samples: int | None,
        is_built_on_rank: Callable[[], bool],
    ) -> Any:
        from tst_megatron.methods.superposition.phased_dataset import build_validation_dataset

        return build_validation_dataset(
            tokens_a_position,
            config,
            num_samples,
            is_built_on_rank,
            self.superposition.bag_boundary,
        )

    def listeners(self, args: argparse.Namespace) -> Sequence[Listener]:
        """The switch, where it is decided by measurement."""
        if self.switch is None:
            return ()
        from tst_megatron.methods.superposition.switch import SwitchListener

        return (SwitchListener(self.switch),)


def bag_size_of(stage: Stage) -> int:
    """s of a stage of a superposed run."""
    size = stage.facts["bag_size"]
    assert isinstance(size, int), "a superposed run's stages know their bag size"
    return size


def _superpose_all(chunks: list[Any], **how: Any) -> list[Any]:
    """Megatron's ``pre_wrap_hooks`` take a list and give one; ``how`` is `superpose`'s."""
    from tst_megatron.methods.superposition.model import superpose

    return [superpose(chunk, **how) for chunk in chunks]
