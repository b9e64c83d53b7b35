"""A run that starts from a smaller model's checkpoint, and goes on as one run with it.

The one idea: the steps, the samples, the text and the learning rate's schedule of the small model's
run go on in the grown one's, as in a resume; nothing is read twice and no schedule begins anew. The
small model's steps are a stage of the run.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from tst_megatron.errors import UserError
from tst_megatron.methods.growth.layers import GrowthFlags, grown_layers
from tst_megatron.methods.method import Run
from tst_megatron.runs.stages import ORDINARY, Stage
from tst_megatron.stock.batch_sizes import BatchSizes, train_steps
from tst_megatron.stock.layer_kinds import kinds_of

_OWN = ("operator", "noise", "optimizer")
"""Of what is remembered, that which flags say again."""


class GrownRun(Run):
    """One growth.

    Args:
        args: Megatron's arguments, of a run with ``--grow``.
    """

    name = "growth"

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._growth: GrowthFlags | None = None
        self._loads_optimizer = True
        # What is known once there is a checkpoint: the growth that comes, or the one that was.
        self._grown: dict[str, Any] = {}

    @property
    def stages(self) -> tuple[Stage, ...]:
        """As `stages_of` the run's own length."""
        return self.stages_of(train_steps(self._args))

    def stages_of(self, train_iters: int) -> tuple[Stage, ...]:
        """The small model's steps, and those of the grown one; these alone before it is known."""
        samples = BatchSizes.from_args(self._args).samples_of_steps(train_iters)
        large = len(kinds_of(self._args))
        before: list[Stage] = []
        done = 0
        for hop in self._hops():
            until = min(hop["samples"], samples)
            layers = hop["layers"][0]
            facts = {"num_layers": layers}
            before.append(Stage(f"{layers} layers", until - done, method=self.name, facts=facts))
            done = until
        return (*before, Stage(ORDINARY, samples - done, facts={"num_layers": large}))

    def _hops(self) -> list[dict[str, Any]]:
        """Growths so far, the first one first."""
        hops: list[dict[str, Any]] = []
        hop = self._grown
        while hop:
            hops.insert(0, hop)
            hop = hop.get("before") or {}
        return hops

    @property
    def facts(self) -> Mapping[str, Any]:
        """How it grows, and when."""
        return self.saved()

    def saved(self) -> dict[str, Any]:
        """Likewise; before there is a checkpoint what the flags say."""
        args = self._args
        own = {"operator": args.grow, "noise": args.grow_noise, "optimizer": args.grow_optimizer}
        return own | self._grown

    def check(self, args: argparse.Namespace) -> None:
        """Check that there is something to start from; a plan needs none."""
        if args.load is None:
            raise UserError("--grow starts from a checkpoint: name a smaller model's in --load")

    def other_model(self, saved: argparse.Namespace, before: Any, step: int) -> frozenset[str]:
        """The number of layers, where the checkpoint's is another."""
        args = self._args
        if kinds_of(saved) == kinds_of(args):
            return frozenset()
        layers = grown_layers(args.grow, saved, args)
        _check_training_goes_on(args, saved, step)
        keeps = args.grow_optimizer == "keep"
        self._loads_optimizer = _has_states_by_layer(saved)
        if keeps and not self._loads_optimizer:
            raise UserError(
                f"the optimizer's state in {args.load} is cut into buckets and not by layers, so "
                "that it cannot grow: save it once with --dist-ckpt-optim-fully-reshardable, or "
                "begin it anew with --grow-optimizer new"
            )
        large, seed = len(layers.sources), int(args.seed)
        self._growth = GrowthFlags(args.grow, large, args.grow_noise, keeps, seed)
        self._grown = self.saved() | {
            "layers": [layers.small, len(layers.sources)],
            "step": step,
            "samples": int(getattr(saved, "consumed_train_samples", 0)),
            "seed": seed,
        }
        if before is not None:
            self._grown["before"] = before
        return frozenset({"num_layers"})

    def resume(self, args: argparse.Namespace, before: Any, step: int) -> None:
        """Go on in a run that has grown, or begin to grow.

        Raises:
            UserError: the checkpoint is of such a model and has not grown, or otherwise.
        """
        if self._growth is not None:
            return
        layers = len(kinds_of(args))
        if before is None:
            raise UserError(
                f"--grow {args.grow}: the checkpoint in {args.load} has {layers} layers as this "
                "run has, and has not grown: name a smaller model's in --load, or leave --grow out"
            )
        now = self.saved()
        # Lists come back as tuples or the other way about; JSON has one of them.
        before = json.loads(json.dumps(before))
        changed = [name for name in _OWN if before.get(name) != now[name]]
        if changed:
            told = ", ".join(f"{name} {before.get(name)}" for name in changed)
            raise UserError(
                f"the checkpoint in {args.load} has grown with {told}, and growth is done: give "
                "the flags that it grew with, or leave the --grow flags out"
            )
        self._grown = before

    def load_checkpoint(self, load: Callable[..., Any]) -> Callable[..., Any]:
        """Megatron's, of a model with other layers, where it is to grow."""
        if self._growth is None:
            return load
        from tst_megatron.checkpoints.unwritten import load_planned
        from tst_megatron.methods.growth.plan import plan_of

        plan = partial(plan_of, growth=self._growth, has_optimizer=self._loads_optimizer)
        return partial(load_planned, load, plan, self._loads_optimizer)


def _check_training_goes_on(args: argparse.Namespace, saved: argparse.Namespace, step: int) -> None:
    """Growth goes on in the small model's training, and so needs to know where that was.

    Raises:
        UserError: the checkpoint does not tell, or is of a format whose layers have no names.
    """
    if not step:
        raise UserError(
            f"the checkpoint in {args.load} is a release, of weights without a training: grow one "
            "of a step"
        )
    if getattr(saved, "no_save_optim", False):
        raise UserError(
            f"the checkpoint in {args.load} was saved with --no-save-optim, so that its schedule "
            "is lost with its optimizer and its training cannot go on: save one without that flag"
        )
    kind = getattr(saved, "ckpt_format", None) or "torch_dist"
    if kind != "torch_dist":
        raise UserError(
            f"the checkpoint in {args.load} is of --ckpt-format {kind}, whose layers have no names "
            "of their own: convert it once with --ckpt-convert-format torch_dist"
        )


def _has_states_by_layer(saved: argparse.Namespace) -> bool:
    """Whether the optimizer's states are a parameter's each; those in buckets of a flat buffer are
    of no layer, so that none can be copied.
    """
    if not getattr(saved, "use_distributed_optimizer", False):
        return True
    return bool(getattr(saved, "dist_ckpt_optim_fully_reshardable", False))
