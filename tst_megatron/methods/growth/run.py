"""A run that starts from a smaller model's checkpoint: which it can grow from, and what it says."""

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

from tst_megatron.errors import UserError
from tst_megatron.methods.another_model import FromAnotherModel, with_weights
from tst_megatron.methods.growth.flags import in_words
from tst_megatron.methods.growth.layers import GrowthFlags, grown_layers
from tst_megatron.methods.growth.width import MAY_DIFFER, small_in_words, width_between
from tst_megatron.runs.stages import Fact
from tst_megatron.stock.layer_kinds import kinds_of
from tst_megatron.stock.sizes import sizes_of


class GrownRun(FromAnotherModel):
    """One growth.

    Args:
        args: Megatron's arguments, of a run with ``--grow`` or ``--grow-width``.
    """

    name = "growth"
    own: ClassVar[tuple[str, ...]] = ("operator", "noise", "optimizer", "width")
    done: ClassVar[tuple[str, str]] = ("has grown", "growth")
    command: ClassVar[str] = "checkpoint grow"

    @property
    def may_differ(self) -> frozenset[str]:
        """Its layers, and its widths where it is to become wider."""
        return frozenset({"num_layers"}) | (MAY_DIFFER if self._args.grow_width else frozenset())

    @property
    def flag(self) -> str:
        """As it was given."""
        return in_words(self._args)

    def said(self) -> dict[str, Any]:
        """How it is to grow."""
        args = self._args
        return {
            "operator": args.grow,
            "noise": args.grow_noise,
            "optimizer": args.grow_optimizer,
            "width": args.grow_width,
        }

    def check(self, args: argparse.Namespace) -> None:
        """Check that there is something to start from; a plan needs none."""
        if args.load is None:
            flag = "--grow-width" if args.grow is None else "--grow"
            raise UserError(f"{flag} starts from a checkpoint: name a smaller model's in --load")

    def is_made_from(self, saved: argparse.Namespace) -> bool:
        """Whether it has another number of layers, or is to become wider and has other widths."""
        args = self._args
        is_of_width = args.grow_width is not None and sizes_of(saved) != sizes_of(args)
        return is_of_width or len(kinds_of(saved)) != len(kinds_of(args))

    def made(self, saved: argparse.Namespace, has_states: bool) -> dict[str, Any]:
        """How many layers become how many, and what becomes wider."""
        args = self._args
        layers = grown_layers(args.grow, saved, args)
        sizes = {}
        if args.grow_width is not None:
            sizes = {"sizes": width_between(args.grow_width, saved, args).changed}
            if names := with_weights(saved):
                raise UserError(
                    f"the checkpoint in {args.load} has weights of {names}, which are not known to "
                    "widen: grow in depth, with --grow, or train the wide model from the start"
                )
            optimizer = getattr(saved, "optimizer", "adam")
            if args.grow_optimizer == "keep" and optimizer != "adam":
                raise UserError(
                    f"the checkpoint in {args.load} was trained with --optimizer {optimizer}, of "
                    "whose states none is known to become wider: give --grow-optimizer new"
                )
        if args.grow_optimizer == "keep" and not has_states:
            raise UserError(
                f"the optimizer's state in {args.load} is cut into buckets and not by layers, so "
                "that it cannot grow: save it once with --dist-ckpt-optim-fully-reshardable, or "
                "begin it anew with --grow-optimizer new"
            )
        return {"layers": [layers.small, len(layers.sources)], **sizes}

    def loading(
        self, load: Callable[..., Any], has_states: bool, complete: Callable[[Any], Any]
    ) -> Callable[..., Any]:
        """Of the grown model."""
        from tst_megatron.checkpoints.unwritten import load_planned
        from tst_megatron.methods.growth.plan import plan_of

        args = self._args
        keeps = args.grow_optimizer == "keep"
        large = len(kinds_of(args))
        wide = {"width": args.grow_width, "wide": args}
        growth = GrowthFlags(args.grow, large, args.grow_noise, keeps, int(args.seed), **wide)
        plan = partial(plan_of, growth=growth, has_optimizer=has_states)
        return partial(load_planned, load, lambda saved: complete(plan(saved)), has_states)

    def not_made(self) -> str:
        """Of a model of this size."""
        args = self._args
        size = f"{len(kinds_of(args))} layers"
        if args.grow_width is not None:
            size += f" of hidden size {args.hidden_size}"
        flag = "--grow-width" if args.grow is None else "--grow"
        return (
            f"{self.flag}: the checkpoint in {args.load} has {size} as this run has, and has not "
            f"grown: name a smaller model's in --load, or leave {flag} out"
        )

    def before(self, made: Mapping[str, Any]) -> tuple[str, Mapping[str, Fact]]:
        """In layers, and in widths where it became wider."""
        small, large = made["layers"]
        sizes = made.get("sizes") or {}
        facts = {"num_layers": small} | {name: both[0] for name, both in sizes.items()}
        layers = f"{small} layers"
        if not sizes:
            return layers, facts
        wide = small_in_words(sizes)
        return wide if small == large else f"{layers} of {wide}", facts

    def now(self) -> Mapping[str, Fact]:
        """Likewise, of what any growth has changed."""
        args = self._args
        names = {name for hop in self._hops() for name in hop.get("sizes") or {}}
        sizes = vars(sizes_of(args)) if names else {}
        return {"num_layers": len(kinds_of(args))} | {name: sizes[name] for name in sorted(names)}
