"""A whole method in one file; all that makes it one is the entry point beside this folder."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from tst_megatron.errors import UserError
from tst_megatron.methods.events import Evaluated, Listener
from tst_megatron.methods.method import Method, Run
from tst_megatron.runs.stages import ORDINARY, Stage
from tst_megatron.stock.batch_sizes import BatchSizes, train_steps

DEFAULT_SHARE = 0.5


class ScaledRate(Listener):
    """Scales the rate of every step, which Megatron sets anew after a step that was not skipped."""

    def __init__(self) -> None:
        self._scaled: dict[int, float] = {}

    def stepping(self, stage: Stage, optimizer: Any) -> None:
        for place, group in enumerate(optimizer.param_groups):
            if group["lr"] != self._scaled.get(place):
                group["lr"] *= stage.facts["rate_scale"]
            self._scaled[place] = group["lr"]

    def evaluated(self, evaluated: Evaluated) -> None:
        evaluated.facts["rate_scale"] = evaluated.progress.stage.facts["rate_scale"]


class ThrowawayRun(Run):
    """Two stages, of which the first has another rate."""

    name = "throwaway"

    def __init__(self, args: argparse.Namespace) -> None:
        self._scale = args.throwaway_scale
        self._share = args.throwaway_share
        self._samples_of_steps = BatchSizes.from_args(args).samples_of_steps
        self._steps = train_steps(args)

    @property
    def stages(self) -> tuple[Stage, ...]:
        return self.stages_of(self._steps)

    def stages_of(self, train_iters: int) -> tuple[Stage, ...]:
        scaled = self._samples_of_steps(round(self._share * train_iters))
        rest = self._samples_of_steps(train_iters) - scaled
        name = f"rates times {self._scale:g}"
        return (
            Stage(name, scaled, method=self.name, facts={"rate_scale": self._scale}),
            Stage(ORDINARY, rest, facts={"rate_scale": 1.0}),
        )

    @property
    def facts(self) -> Mapping[str, Any]:
        return self.saved()

    def saved(self) -> dict[str, Any]:
        return {"scale": self._scale, "share": self._share}

    def resume(self, args: argparse.Namespace, before: Any, step: int) -> None:
        if before != self.saved() and not args.allow_schedule_change:
            raise UserError(
                f"the checkpoint in {args.load} was trained with rates scaled by {before}: give "
                "the same --throwaway- flags, or --allow-schedule-change"
            )

    def listeners(self, args: argparse.Namespace) -> Sequence[Listener]:
        return (ScaledRate(),)


class ThrowawayMethod(Method):
    """On where there is a number."""

    name = "throwaway"
    flag_prefix = "throwaway"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group("throwaway", "Another rate in the first part of a run.")
        group.add_argument("--throwaway-scale", type=float, metavar="X", help="times the rate")
        group.add_argument(
            "--throwaway-share",
            type=float,
            default=DEFAULT_SHARE,
            metavar="R",
            help=f"of the steps (default {DEFAULT_SHARE})",
        )

    def check(self, args: argparse.Namespace) -> None:
        if not 0 < args.throwaway_share < 1:
            raise UserError(
                f"--throwaway-share {args.throwaway_share:g} is no share: give one between 0 and 1"
            )

    def is_on(self, args: argparse.Namespace) -> bool:
        return args.throwaway_scale is not None

    def run(self, args: argparse.Namespace) -> Run:
        return ThrowawayRun(args)


METHOD = ThrowawayMethod()
