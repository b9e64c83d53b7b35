"""A run that starts from a smaller model's checkpoint: which it can grow from, and what it says."""

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

from tst_megatron.errors import UserError
from tst_megatron.methods.another_model import FromAnotherModel
from tst_megatron.methods.growth.layers import GrowthFlags, grown_layers
from tst_megatron.runs.stages import Fact
from tst_megatron.stock.layer_kinds import kinds_of


class GrownRun(FromAnotherModel):
    """One growth.

    Args:
        args: Megatron's arguments, of a run with ``--grow``.
    """

    name = "growth"
    own: ClassVar[tuple[str, ...]] = ("operator", "noise", "optimizer")
    done: ClassVar[tuple[str, str]] = ("has grown", "growth")
    may_differ: ClassVar[frozenset[str]] = frozenset({"num_layers"})

    @property
    def flag(self) -> str:
        """As it was given."""
        return f"--grow {self._args.grow}"

    def said(self) -> dict[str, Any]:
        """How it is to grow."""
        args = self._args
        return {
            "operator": args.grow,
            "noise": args.grow_noise,
            "optimizer": args.grow_optimizer,
        }

    def check(self, args: argparse.Namespace) -> None:
        """Check that there is something to start from; a plan needs none."""
        if args.load is None:
            raise UserError("--grow starts from a checkpoint: name a smaller model's in --load")

    def is_made_from(self, saved: argparse.Namespace) -> bool:
        """Whether it has another number of layers."""
        return len(kinds_of(saved)) != len(kinds_of(self._args))

    def made(self, saved: argparse.Namespace, has_states: bool) -> dict[str, Any]:
        """How many layers become how many."""
        args = self._args
        layers = grown_layers(args.grow, saved, args)
        if args.grow_optimizer == "keep" and not has_states:
            raise UserError(
                f"the optimizer's state in {args.load} is cut into buckets and not by layers, so "
                "that it cannot grow: save it once with --dist-ckpt-optim-fully-reshardable, or "
                "begin it anew with --grow-optimizer new"
            )
        return {"layers": [layers.small, len(layers.sources)]}

    def loading(self, load: Callable[..., Any], has_states: bool) -> Callable[..., Any]:
        """Of the grown model."""
        from tst_megatron.checkpoints.unwritten import load_planned
        from tst_megatron.methods.growth.plan import plan_of

        args = self._args
        keeps = args.grow_optimizer == "keep"
        large = len(kinds_of(args))
        growth = GrowthFlags(args.grow, large, args.grow_noise, keeps, int(args.seed))
        plan = partial(plan_of, growth=growth, has_optimizer=has_states)
        return partial(load_planned, load, plan, has_states)

    def not_made(self) -> str:
        """Of a model of as many layers."""
        layers = len(kinds_of(self._args))
        return (
            f"--grow {self._args.grow}: the checkpoint in {self._args.load} has {layers} layers as "
            "this run has, and has not grown: name a smaller model's in --load, or leave --grow out"
        )

    def before(self, made: Mapping[str, Any]) -> tuple[str, Mapping[str, Fact]]:
        """In layers."""
        layers = made["layers"][0]
        return f"{layers} layers", {"num_layers": layers}

    def now(self) -> Mapping[str, Fact]:
        """Likewise."""
        return {"num_layers": len(kinds_of(self._args))}
