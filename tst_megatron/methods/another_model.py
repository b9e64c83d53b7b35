"""A run that starts from the checkpoint of another model, and goes on as one run with it.

The one idea: the steps, the samples, the text and the learning rate's schedule of the first model's
run go on in this one's, as in a resume; nothing is read twice and no schedule begins anew. What was
trained before is a stage of the run. A method of the kind says which models it can be made from,
and plans the checkpoint that it is made by.
"""

import argparse
import json
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from tst_megatron.errors import UserError
from tst_megatron.methods.method import Run
from tst_megatron.runs.stages import ORDINARY, Fact, Stage
from tst_megatron.stock.batch_sizes import BatchSizes, train_steps

logger = logging.getLogger(__name__)

_ALONE = (
    *("finetune", "pretrained_checkpoint", "use_checkpoint_args", "ckpt_convert_format"),
    *("use_megatron_fsdp", "use_torch_fsdp2", "moe_use_upcycling"),
)
"""Megatron's flags that have a checkpoint read in another way, or begin anew."""


def check_beside(args: argparse.Namespace, flag: str, new_optimizer: str) -> None:
    """Check what of Megatron's a start from another model cannot go with.

    Args:
        args: Megatron's.
        flag: that asks for it.
        new_optimizer: the flag by which the optimizer begins anew.

    Raises:
        UserError: it does not go with a flag.
    """
    if args.no_load_optim:
        # Megatron would forget the learning rate's schedule with it.
        raise UserError(f"{flag} with --no-load-optim: give {new_optimizer} in its place")
    for other in _ALONE:
        if getattr(args, other, None):
            raise UserError(
                f"{flag} does not go with --{other.replace('_', '-')}: leave one of them out"
            )
    if getattr(args, "non_persistent_global_ckpt_dir", None):
        # It could be the first run's, whose checkpoints would be taken for this run's own.
        raise UserError(
            f"{flag} does not go with --non-persistent-global-ckpt-dir, of whose checkpoints none "
            "says which run's it is: leave it out, and they lie under --save"
        )
    if args.ckpt_format != "torch_dist":
        raise UserError(
            f"{flag} reads checkpoints of --ckpt-format torch_dist alone, not {args.ckpt_format}: "
            "convert the first one with --ckpt-convert-format"
        )


def with_weights(saved: argparse.Namespace) -> str:
    """The methods that have weights of their own in a checkpoint's model, in words; empty of none.

    Args:
        saved: the checkpoint's arguments.
    """
    told = getattr(saved, "methods", None) or {}
    return " and ".join(name for name, one in told.items() if one.get("has_weights"))


def check_on_disk(saved: argparse.Namespace, folder: Any, instead: str) -> None:
    """Check that a checkpoint can become another one without a run, whose flags say what a method's
    weights become.

    Args:
        saved: the checkpoint's arguments.
        folder: of it.
        instead: flag by which a run does it.

    Raises:
        UserError: it cannot.
    """
    if names := with_weights(saved):
        raise UserError(
            f"{folder} has weights of {names}, of which only a run's flags say what becomes of "
            f"them: let pretrain do it as it loads it, with {instead}"
        )


class FromAnotherModel(Run):
    """One such start.

    Args:
        args: Megatron's arguments, of a run with the method.

    Attributes:
        own: of what is remembered, that which flags say again.
        done: what a checkpoint's model has done that need not be done again, in words.
        command: that makes such a model without a training, in words of the command line.
    """

    own: ClassVar[tuple[str, ...]]
    done: ClassVar[tuple[str, str]]
    command: ClassVar[str]

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._is_to_be_made = False
        self._has_states = True
        # What is known once there is a checkpoint: the start that comes, or the one that was.
        self._made: dict[str, Any] = {}

    # What a method of the kind says.

    def said(self) -> dict[str, Any]:
        """What its flags say, as JSON's types."""
        raise NotImplementedError

    @property
    def flag(self) -> str:
        """As the user wrote it."""
        raise NotImplementedError

    def is_made_from(self, saved: argparse.Namespace) -> bool:
        """Whether a checkpoint's model is another than the run's.

        Args:
            saved: the checkpoint's arguments.
        """
        raise NotImplementedError

    def made(self, saved: argparse.Namespace, has_states: bool) -> dict[str, Any]:
        """How the model is made, as is remembered of it.

        Args:
            saved: the checkpoint's arguments.
            has_states: whether its optimizer has a state a parameter.

        Raises:
            UserError: it cannot be.
        """
        raise NotImplementedError

    def loading(
        self, load: Callable[..., Any], has_states: bool, complete: Callable[[Any], Any]
    ) -> Callable[..., Any]:
        """Megatron's loading, of what the checkpoint becomes.

        Args:
            load: Megatron's ``load_checkpoint``.
            has_states: as above.
            complete: as `load_checkpoint` is given it.
        """
        raise NotImplementedError

    def not_made(self) -> str:
        """What is said of a checkpoint of the run's own model that was not made so."""
        raise NotImplementedError

    def before(self, made: Mapping[str, Any]) -> tuple[str, Mapping[str, Fact]]:
        """The name and the facts of the stage before, from what is remembered."""
        raise NotImplementedError

    def now(self) -> Mapping[str, Fact]:
        """The facts of the stage after it."""
        raise NotImplementedError

    @property
    def may_differ(self) -> frozenset[str]:
        """Megatron's arguments in which the two models may differ."""
        raise NotImplementedError

    # What follows.

    @property
    def stages(self) -> tuple[Stage, ...]:
        """As `stages_of` the run's own length."""
        return self.stages_of(train_steps(self._args))

    def stages_of(self, train_iters: int) -> tuple[Stage, ...]:
        """The first model's steps, and those of this one; these alone before it is known."""
        samples = BatchSizes.from_args(self._args).samples_of_steps(train_iters)
        before: list[Stage] = []
        done = 0
        for hop in self._hops():
            until = min(hop["samples"], samples)
            name, facts = self.before(hop)
            before.append(Stage(name, until - done, method=self.name, facts=facts))
            done = until
        return (*before, Stage(ORDINARY, samples - done, facts=self.now()))

    def _hops(self) -> list[dict[str, Any]]:
        """Starts so far, the first one first."""
        hops: list[dict[str, Any]] = []
        hop = self._made
        while hop:
            hops.insert(0, hop)
            hop = hop.get("before") or {}
        return hops

    @property
    def facts(self) -> Mapping[str, Any]:
        """How it is made, and when."""
        return self.saved()

    def saved(self) -> dict[str, Any]:
        """Likewise; before there is a checkpoint what the flags say."""
        return self.said() | self._made

    def other_model(self, saved: argparse.Namespace, before: Any, step: int) -> frozenset[str]:
        """What differs, where the checkpoint's model is another.

        Raises:
            UserError: it lies where this run saves, its training cannot go on, or it cannot become
                the run's.
        """
        if not self.is_made_from(saved):
            return frozenset()
        args = self._args
        is_own = bool(args.save) and os.path.realpath(args.save) == os.path.realpath(args.load)
        if is_own:
            raise UserError(
                f"the checkpoint in {args.load}, where this run saves its own, is of another model "
                "than its flags have: give the flags of that, or another --save"
            )
        self._check_training_goes_on(saved, step)
        if step >= train_steps(args) and not getattr(args, "rank", 0):
            logger.warning(
                "The run is to have %d steps, which the checkpoint in %s has: nothing is trained.",
                *(train_steps(args), args.load),
            )
        self._has_states = _has_states_by_parameter(saved)
        self._made = self.said() | self.made(saved, self._has_states)
        self._is_to_be_made = True
        self._made |= {
            "step": step,
            "samples": int(getattr(saved, "consumed_train_samples", 0)),
            "seed": int(self._args.seed),
        }
        if before is not None:
            self._made["before"] = before
        return self.may_differ

    def resume(self, args: argparse.Namespace, before: Any, step: int) -> None:
        """Go on in a run that has been made so, or begin with it.

        Raises:
            UserError: the checkpoint is of such a model and was not made so, or otherwise.
        """
        if self._is_to_be_made:
            return
        if before is None:
            raise UserError(self.not_made())
        now = self.saved()
        # Lists come back as tuples or the other way about; JSON has one of them.
        before = json.loads(json.dumps(before))
        changed = [name for name in self.own if before.get(name) != now[name]]
        if changed:
            told = ", ".join(f"{name} {before.get(name)}" for name in changed)
            has, noun = self.done
            raise UserError(
                f"the checkpoint in {args.load} {has} with {told}, and {noun} is done: give the "
                f"flags that it was made with, or leave {self.flag} and its flags out"
            )
        self._made = before

    @property
    def reads_optimizer(self) -> bool:
        """Not where the model is made of a checkpoint whose optimizer has no state a parameter."""
        return self._has_states or not self._is_to_be_made

    def load_checkpoint(
        self, load: Callable[..., Any], complete: Callable[[Any], Any]
    ) -> Callable[..., Any]:
        """Megatron's, of what the checkpoint becomes, where it is another model's."""
        return self.loading(load, self._has_states, complete) if self._is_to_be_made else load

    def _check_training_goes_on(self, saved: argparse.Namespace, step: int) -> None:
        """The training of the first model goes on, and so it must be known where that was.

        Raises:
            UserError: the checkpoint does not tell, or its format has no names of layers.
        """
        args = self._args
        if not step:
            raise UserError(
                f"the checkpoint in {args.load} is a release, of weights without a training: "
                f"{self.flag} goes on with one; make the model of a release by tst-megatron "
                f"{self.command}, and --load what that writes, without {self.flag}"
            )
        if getattr(saved, "no_save_optim", False):
            raise UserError(
                f"the checkpoint in {args.load} was saved with --no-save-optim, so that its "
                "schedule is lost with its optimizer and its training cannot go on: save one "
                "without that flag"
            )
        kind = getattr(saved, "ckpt_format", None) or "torch_dist"
        if kind != "torch_dist":
            raise UserError(
                f"the checkpoint in {args.load} is of --ckpt-format {kind}, whose layers have no "
                "names of their own: convert it once with --ckpt-convert-format torch_dist"
            )


def _has_states_by_parameter(saved: argparse.Namespace) -> bool:
    """Whether the optimizer's states are a parameter's each; those in buckets of a flat buffer are
    of none, so that they cannot be copied.
    """
    if not getattr(saved, "use_distributed_optimizer", False):
        return True
    return bool(getattr(saved, "dist_ckpt_optim_fully_reshardable", False))
