"""What a way to train for less may change in a run: the protocol of a method.

The one idea: a `Method` reads its flags into a `Run`, and a `Run` is asked, at every place where a
run can be changed, for its part. Every part is optional: this base changes nothing, so it is also
`Ordinary`, which answers for a run without a method. The trainer, the planner and the comparison
know this protocol and no method; nothing here needs Megatron or torch.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tst_megatron.methods.events import Listener
from tst_megatron.runs.stages import CombinationError, Fact, Stage, ordinary_stage
from tst_megatron.stock.batch_sizes import BatchSizes, train_steps

if TYPE_CHECKING:
    from tst_megatron.methods.forms import Forms
    from tst_megatron.methods.own_model import OwnCode, OwnModel, Reader
    from tst_megatron.methods.search import Search
    from tst_megatron.methods.story import Story
    from tst_megatron.methods.terms import Terms

type Positions = list[list[int | None]]
"""``[L][tokens a position]``, ids; None in a place that holds no token."""


@dataclass(frozen=True)
class NeedsGpu:
    """What a run asks for that only a GPU has.

    Attributes:
        flag: as the user wrote it, or several of them in words.
        instead: what to do without a GPU.
    """

    flag: str
    instead: str = "leave it out"


@dataclass(frozen=True)
class Evaluation:
    """A further loss that is measured at every validation of a stage.

    Attributes:
        loss: its name.
        stage: as which the samples are trained on; the forward step is told of it.
        tokens_a_position: of its data; so many fewer samples are evaluated, as many data tokens.
        dataset: makes the held-out data from Megatron's data configuration, the number of samples
            (None for one pass over the split) and whether this rank reads any; None where not.
            None for those of the next-token loss.
    """

    loss: str
    stage: Stage
    tokens_a_position: int
    dataset: Callable[[Any, int | None, Callable[[], bool]], Any] | None = None


@dataclass(frozen=True)
class MicroBatch:
    """A micro-batch that is asked for.

    Attributes:
        stage: of its samples.
        args: Megatron's validated arguments.
        data_iterator: yields the data set's dictionaries; used on tensor-parallel rank 0 only.
        vp_stage: virtual pipeline stage, if the schedule is interleaved.
        micro_batch_size: b, of training or of evaluation.
    """

    stage: Stage
    args: argparse.Namespace
    data_iterator: Iterator[Any] | None
    vp_stage: int | None
    micro_batch_size: int


class Run:
    """A method at work in one run; this base changes nothing.

    Attributes:
        name: of the method.
    """

    name: str = ""

    @property
    def stages(self) -> tuple[Stage, ...]:
        """What the run goes through, as far as it is decided now; at least one."""
        raise NotImplementedError

    def stages_of(self, train_iters: int) -> tuple[Stage, ...]:
        """The stages if the run had so many steps.

        Raises:
            UserError: it cannot have.
        """
        raise NotImplementedError

    @property
    def facts(self) -> Mapping[str, Any]:
        """The settings that a ledger and a comparison show, as JSON's types."""
        return {}

    @property
    def parts(self) -> tuple["Run", ...]:
        """The runs of single methods that this is made of; none of an ordinary run."""
        return (self,)

    # Before any process group.

    def check(self, args: argparse.Namespace) -> None:
        """Check the run's validated arguments against what the method needs.

        Raises:
            UserError: they do not fit.
        """

    def check_with(self, others: Sequence["Run"]) -> None:
        """Check the methods that the run has besides.

        Raises:
            UserError: they make no sense together.
        """

    def saved(self) -> Any:
        """What a checkpoint remembers of the method, as JSON's types."""
        return None

    @property
    def ends_are_open(self) -> bool:
        """Whether where a stage ends is decided as the run goes."""
        return False

    def other_model(self, saved: argparse.Namespace, before: Any, step: int) -> frozenset[str]:
        """Whether the checkpoint's model is another, which this run's is made from as it loads.

        Asked before `resume`, of a checkpoint that the run goes on from.

        Args:
            saved: its arguments, Megatron's and ours.
            before: what `saved` gave when it was written; None if the method was not on.
            step: of it.

        Returns:
            Names of Megatron's arguments of the model in which the two may differ.

        Raises:
            UserError: the model cannot be made from it.
        """
        return frozenset()

    def check_weights(self, args: argparse.Namespace, before: Any) -> None:
        """Check that the model can have a checkpoint's weights, whether the run goes on from it or
        begins anew from it (``--finetune``, a pre-trained checkpoint).

        Args:
            args: Megatron's validated arguments.
            before: what `saved` gave when it was written; None if the method was not on.

        Raises:
            UserError: it cannot.
        """

    @property
    def has_weights(self) -> bool:
        """Whether the model has weights of the method's own."""
        return False

    def check_made(self, args: argparse.Namespace, before: Any, step: int) -> None:
        """Check that the method's part of the model can be made from the checkpoint of another one
        (`other_model`), asked in place of `check_weights`.

        Args:
            args: Megatron's validated arguments.
            before: what `saved` gave when it was written; None if the method was not on.
            step: of the checkpoint.

        Raises:
            UserError: it cannot.
        """

    @property
    def reads_optimizer(self) -> bool:
        """Whether the optimizer's state is read of the checkpoint that is to be loaded."""
        return True

    def resume(self, args: argparse.Namespace, before: Any, step: int) -> None:
        """Go on from a checkpoint.

        Args:
            args: Megatron's validated arguments.
            before: what `saved` gave when it was written; None if the method was not on.
            step: that the run goes on from.

        Raises:
            UserError: it is not the same run.
        """

    @property
    def reads_text_once(self) -> bool:
        """Whether a run that would read text twice is refused, unless that is allowed."""
        return False

    def text(self, train_iters: int, seq_length: int) -> Sequence[Any] | None:
        """What the method demands of the text: `tst_megatron.corpora.parts.TextPart`s.

        Asked of the method that makes the training data.

        Args:
            train_iters: steps of the run.
            seq_length: L.

        Returns:
            None where the run reads its text as any run does.

        Raises:
            UserError: the run cannot have so many steps.
        """
        return None

    @property
    def has_forms(self) -> bool:
        """Whether `forms_of` gives any."""
        return False

    def forms_of(self, train_iters: int) -> "Forms | None":
        """In which form each sample reads its text; None where the method has it as it is indexed.

        One that has it otherwise makes the training data, or has another method make it
        (`read_in`).

        Args:
            train_iters: steps of the run.

        Raises:
            UserError: the run cannot have so many steps.
        """
        return None

    def form_names(self, args: argparse.Namespace) -> tuple[str, ...]:
        """The forms that samples of the run read; none where they read the text as it is indexed.

        Args:
            args: that say how long the run is.

        Raises:
            UserError: the run cannot have so many steps.
        """
        if not any(part.has_forms for part in self.parts):
            return ()
        forms = self.forms_of(train_steps(args))
        return () if forms is None else forms.names

    def read_in(self, forms_of: "Callable[[int], Forms | None]") -> None:
        """Let the training data, and the text that is asked for, be in another method's forms.

        Asked of the method that makes the training data.

        Args:
            forms_of: that method's.

        Raises:
            CombinationError: it cannot.
        """
        raise CombinationError(f"{self.name} makes the training data in one form alone")

    def held_out_text(self, num_samples: int, seq_length: int) -> Any | None:
        """Likewise of the largest sample of validation, as one `TextPart`; None as above."""
        return None

    def parents(self) -> Sequence[Any]:
        """What was spent before step 0: `tst_megatron.runs.facts.Parent`s."""
        return ()

    # In the trainer.

    def configure_model(self, config: Any) -> Any:
        """Change the model's configuration, or add to its ``pre_wrap_hooks``, which are given this
        rank's model chunks as soon as they are built.

        Args:
            config: Megatron's ``GPTModelConfig`` or ``HybridModelConfig``.
        """
        return config

    def load_checkpoint(
        self, load: Callable[..., Any], complete: Callable[[Any], Any]
    ) -> Callable[..., Any]:
        """Wrap Megatron's ``load_checkpoint``; what it is given is what is called.

        Args:
            load: that.
            complete: gives the plan of a checkpoint that is made of another model's, and knows
                nothing of other methods, what theirs lack in it.
        """
        return load

    def goes_on_from(self, step: int) -> None:
        """A checkpoint has been loaded, or there is none and the step is 0."""

    @property
    def makes_training_data(self) -> bool:
        """Whether `training_data` takes the place of Megatron's training data."""
        return False

    def training_data(self, config: Any, is_built_on_rank: Callable[[], bool]) -> Any:
        """The training data, by global sample index; called on all ranks.

        Args:
            config: Megatron's ``GPTDatasetConfig``, with sequence_length = L.
            is_built_on_rank: whether this rank reads data.

        Returns:
            None on ranks that read no data.
        """
        raise NotImplementedError

    def in_positions(self, sample: Mapping[str, Any]) -> tuple[Positions, Positions] | None:
        """A sample of `training_data` for the eye: its inputs and its targets.

        Returns:
            None for a sample that is as Megatron's own are.
        """
        return None

    def batch(self, wanted: MicroBatch, ordinary: Callable[[], Any]) -> Any:
        """The tensors of one micro-batch for this rank.

        Args:
            wanted: which.
            ordinary: makes the `tst_megatron.stock.batch.Batch` of a run without the method.
        """
        return ordinary()

    def flops(self, args: argparse.Namespace, samples: int, ordinary: float) -> float:
        """Floating-point operations of samples of a step.

        Args:
            args: Megatron's validated arguments.
            samples: sequences.
            ordinary: as Megatron, or the method before, counts them.
        """
        return ordinary

    def shares_at_work(self, chunk: Any) -> Mapping[str, float]:
        """The share of the positions that parameters work on, where that is not all of them.

        Args:
            chunk: one of this rank's model chunks, wrapped for data parallelism or not.

        Returns:
            By their names in the chunk; of experts beside that of a router's k of them.
        """
        return {}

    def evaluations(self, stage: Stage) -> Sequence[Evaluation]:
        """Further losses to measure at a validation in a stage."""
        return ()

    def listeners(self, args: argparse.Namespace) -> Sequence[Listener]:
        """Who of the method is told of events; called once a run."""
        return ()


class Ordinary(Run):
    """A run without a method.

    Args:
        args: flags that say how long the run is, which is asked for with its stages.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args

    @property
    def parts(self) -> tuple[Run, ...]:
        """None."""
        return ()

    @property
    def stages(self) -> tuple[Stage, ...]:
        """One; without samples in a run of no steps, which evaluates alone."""
        args = self._args
        evaluates_alone = args.train_iters == 0 and not args.train_samples
        return self.stages_of(0 if evaluates_alone else train_steps(args))

    def stages_of(self, train_iters: int) -> tuple[Stage, ...]:
        """One."""
        return (ordinary_stage(BatchSizes.from_args(self._args).samples_of_steps(train_iters)),)


class Method:
    """A way to train for less.

    Attributes:
        name: as folder, ledger and messages have it.
        flag_prefix: of its flags, such as ``tst``.
        forms: sets of flags, without dashes in front, that say the same thing in other words; one
            that is given takes the place of the others. None where it has but one form.
        asked_by: flags, without dashes in front, any of which asks for it in a chain; none for the
            prefix alone.
        starts_from_another: whether the run starts from another run's checkpoint, in ``load`` or
            where `starts_from` says; once it has saved one of its own, the same command goes on
            from that.
        works_on_blocks: whether it takes attention and MLP of a GPTModel's block for one, so that
            the model has no twin among HybridModels, where they are layers of their own.
    """

    name: ClassVar[str]
    flag_prefix: ClassVar[str]

    @property
    def argument_prefix(self) -> str:
        """Of the parsed arguments that are the method's, such as ``tst_``."""
        return f"{self.flag_prefix.replace('-', '_')}_"

    def has_argument(self, name: str) -> bool:
        """Whether a parsed argument is the method's: it has its prefix, or is that alone."""
        return f"{name}_".startswith(self.argument_prefix)

    forms: ClassVar[tuple[frozenset[str], ...]] = ()
    asked_by: ClassVar[tuple[str, ...]] = ()
    starts_from_another: ClassVar[bool] = False
    works_on_blocks: ClassVar[bool] = False

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the method's flags to a parser, Megatron's or a smaller one."""

    def check(self, args: argparse.Namespace) -> None:
        """Check the method's flags that need nothing but the command line.

        Raises:
            UserError: a value is out of range, or flags contradict one another.
        """

    def check_beside(self, args: argparse.Namespace) -> None:
        """Check what of Megatron's the method cannot go with.

        It is asked before torch is imported, too, and imports neither torch nor Megatron.

        Args:
            args: all of Megatron's, before and again after its validation.

        Raises:
            UserError: it does not go with a flag.
        """

    def needs_gpu(self, args: argparse.Namespace) -> tuple[NeedsGpu, ...]:
        """What the method asks for with these flags that only a GPU has.

        Args:
            args: all of Megatron's, before its validation.
        """
        return ()

    def is_on(self, args: argparse.Namespace) -> bool:
        """Whether the method's own flags ask for it; asked where Megatron's are not known, too."""
        raise NotImplementedError

    def run(self, args: argparse.Namespace) -> Run:
        """The method at work, from checked arguments of a run that asks for it.

        Raises:
            UserError: the run cannot have it.
        """
        raise NotImplementedError

    def starts_from(self, args: argparse.Namespace) -> str | None:
        """The folder of checkpoints that the run starts from, where a flag of the method's own
        names it and not ``load``.
        """
        return None

    def start_flag(self, args: argparse.Namespace) -> str:
        """The flag that names what such a run starts from."""
        return "--load"

    def remembered(self, saved: argparse.Namespace) -> Any:
        """What `Run.saved` gave, in the arguments that a checkpoint carries; None if nothing."""
        mine = (getattr(saved, "methods", None) or {}).get(self.name)
        return None if mine is None else mine["facts"]

    def goes_on_without(self, before: Any) -> str:
        """What is said of an ordinary run that goes on from a checkpoint of a run with the method.

        Args:
            before: what `Run.saved` gave.
        """
        return (
            f"was trained with {self.name}, under {json.dumps(before)}, and this run goes on "
            "without it"
        )

    def why_not_without(self, before: Any) -> str | None:
        """Why a model without the method cannot have a checkpoint's weights; None where it can.

        Args:
            before: what `Run.saved` gave; not None.

        Returns:
            The end of a sentence that begins with the checkpoint's name.
        """
        return None

    def why_not_made_without(self, before: Any) -> str | None:
        """Why a run without the method cannot make another model of a checkpoint's; None where it
        can, as `complete` leaves out what such a run has no place for.

        Args:
            before: what `Run.saved` gave; not None.

        Returns:
            As of `why_not_without`, whose answer it is where nothing else is said.
        """
        return self.why_not_without(before)

    def complete(self, plan: Any, args: argparse.Namespace) -> Any:
        """What the method's weights become in a checkpoint that is planned of another model's.

        Asked of every method, whether the run has it or not: the other model may have had it.

        Args:
            plan: a `tst_megatron.checkpoints.derived.Plan`, with copies of whatever a layer has.
            args: Megatron's validated arguments.
        """
        return plan

    def why_not_exported(self, before: Any, args: argparse.Namespace) -> str | None:
        """Why a checkpoint's model is none that transformers could run; None where it may be one.

        Args:
            before: what `Run.saved` gave; not None.
            args: Megatron's, of the checkpoint.

        Returns:
            The end of a sentence that begins with the checkpoint's name.
        """
        return None

    @property
    def own_code(self) -> "OwnCode | None":
        """The code that exported models of the method bring along; None where they are a family's
        of transformers' own."""
        return None

    def own_model(self, before: Any, args: argparse.Namespace, read: "Reader") -> "OwnModel | None":
        """What a checkpoint's model has beside a family's; None where nothing.

        Args:
            before: what `Run.saved` gave; not None.
            args: Megatron's, of the checkpoint.
            read: gives its tensors.
        """
        return None

    def terms(self) -> "Terms":
        """What the method adds to a plan."""
        from tst_megatron.methods.terms import Terms

        return Terms()

    def search(self) -> "Search | None":
        """Which of its settings ``sweep`` can choose; None where there are none."""
        return None

    def story(self) -> "Story":
        """How the method is told in a comparison."""
        from tst_megatron.methods.story import Story

        return Story(self.name)


__all__ = ["Evaluation", "Fact", "Method", "Ordinary", "Positions", "Run", "Stage"]
