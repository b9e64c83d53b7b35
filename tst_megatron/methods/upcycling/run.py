"""A run whose experts are a dense model's MLPs: which it can be made from, and what it says."""

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

from tst_megatron.errors import UserError
from tst_megatron.methods.another_model import FromAnotherModel
from tst_megatron.methods.upcycling.experts import (
    OF_EXPERTS,
    Upcycling,
    experts_of,
    facts_of,
    made_of,
)
from tst_megatron.runs.stages import Fact
from tst_megatron.stock.layer_kinds import WITH_EXPERTS, kinds_of


class UpcycledRun(FromAnotherModel):
    """One upcycling.

    Args:
        args: Megatron's arguments, of a run with ``--upcycle-from`` or ``--upcycle``.
    """

    name = "upcycling"
    own: ClassVar[tuple[str, ...]] = tuple(facts_of(Upcycling()))
    done: ClassVar[tuple[str, str]] = ("was upcycled", "that")
    command: ClassVar[str] = "checkpoint upcycle"
    # Of dense layers the width is held against the checkpoint's where some stay.
    may_differ: ClassVar[frozenset[str]] = frozenset((*OF_EXPERTS, "ffn_hidden_size"))

    @property
    def flag(self) -> str:
        """As it was given."""
        return "--upcycle-from" if self._args.upcycle_from else "--upcycle"

    def said(self) -> dict[str, Any]:
        """How experts are to be made."""
        return facts_of(Upcycling.of(self._args))

    def check(self, args: argparse.Namespace) -> None:
        """Check that there is something to start from; a plan needs none."""
        if args.load is None:
            raise UserError(
                f"{self.flag} starts from a checkpoint: name the dense run's in --upcycle-from"
            )

    def is_made_from(self, saved: argparse.Namespace) -> bool:
        """Whether it has another number of experts, or none."""
        return _experts(saved) != _experts(self._args)

    def other_model(self, saved: argparse.Namespace, before: Any, step: int) -> frozenset[str]:
        """What differs, where there are other experts; those that were made stay as they are.

        Raises:
            UserError: likewise, or experts that were made are to be others.
        """
        found = super().other_model(saved, before, step)
        if found or before is None:
            return found
        for name in OF_EXPERTS:
            one, other = (getattr(of, name, None) or None for of in (saved, self._args))
            if name == "moe_layer_freq":
                one, other = kinds_of(saved), kinds_of(self._args)
            if name == "hybrid_layer_pattern" or one == other:
                continue
            flag = f"--{name.replace('_', '-')}"
            raise UserError(
                f"the checkpoint in {self._args.load} has {flag} {one} and this run {other}: its "
                "experts were made for the first, so give that"
            )
        return found

    def made(self, saved: argparse.Namespace, has_states: bool) -> dict[str, Any]:
        """How many experts, of what."""
        args = self._args
        made = made_of(experts_of(saved, args, Upcycling.of(args)))
        optimizer = getattr(saved, "optimizer", "adam")
        if args.upcycle_optimizer == "keep" and optimizer != "adam":
            raise UserError(
                f"the checkpoint in {args.load} was trained with --optimizer {optimizer}, of whose "
                "states none is known to be one that an expert can keep: leave "
                "--upcycle-optimizer keep out"
            )
        if args.upcycle_optimizer == "keep" and not has_states:
            raise UserError(
                f"the optimizer's state in {args.load} is cut into buckets and not by parameters, "
                "so that no expert can keep its part: save it once with "
                "--dist-ckpt-optim-fully-reshardable, or leave --upcycle-optimizer keep out"
            )
        return made

    def loading(
        self, load: Callable[..., Any], has_states: bool, complete: Callable[[Any], Any]
    ) -> Callable[..., Any]:
        """Of the model with experts."""
        from tst_megatron.checkpoints.unwritten import load_planned
        from tst_megatron.methods.upcycling.plan import plan_of

        how = Upcycling.of(self._args)
        plan = partial(plan_of, args=self._args, how=how, has_optimizer=has_states)
        return partial(load_planned, load, lambda saved: complete(plan(saved)), has_states)

    def not_made(self) -> str:
        """Of a model with as many experts."""
        args = self._args
        return (
            f"{self.flag}: the checkpoint in {args.load} has {_experts(args)} experts as this run "
            "has, and was not upcycled: name a dense run's in --upcycle-from, or leave that out"
        )

    def before(self, made: Mapping[str, Any]) -> tuple[str, Mapping[str, Fact]]:
        """In experts."""
        experts = made["experts"][0]
        return f"{experts} experts" if experts else "dense", {"num_experts": experts}

    def now(self) -> Mapping[str, Fact]:
        """Likewise."""
        return {"num_experts": _experts(self._args)}


def _experts(args: argparse.Namespace) -> int:
    """Of a layer; 0 where no layer has any."""
    number = int(getattr(args, "num_experts", None) or 0)
    return number if any(kind in WITH_EXPERTS for kind in kinds_of(args)) else 0
