"""The switch decided by measurement, in a run: every rank learns the same numbers and so decides
the same.

The one idea: what was measured is the only state. It is in the checkpoint with Megatron's
arguments, and in the ledger; the decision follows from it by `decide`, in training, after a resume
and for whoever replays a ledger.
"""

import argparse
import logging
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from tst_megatron.errors import UserError
from tst_megatron.methods.events import Evaluated, Listener
from tst_megatron.methods.superposition.open_schedule import OpenSchedule
from tst_megatron.methods.superposition.settings import BAG_LOSS
from tst_megatron.methods.superposition.switch_rule import (
    LEAD_STEPS,
    MIN_POINTS,
    VERSION,
    Decision,
    Point,
    Rule,
    decide,
)
from tst_megatron.stock.batch_sizes import train_steps

logger = logging.getLogger(__name__)

# torch.utils.data.DataLoader's prefetch_factor, which Megatron leaves as it is.
_BATCHES_AHEAD_A_WORKER = 2


class AutoSwitch:
    """Ends the superposed stage of an open schedule when the measurements say so.

    Args:
        schedule: of the run; closed and opened by this alone.
        rule: of the run.

    Attributes:
        decision: that the stage ends before it must; None as long as there is none.
    """

    def __init__(self, schedule: OpenSchedule, rule: Rule) -> None:
        self.rule = rule
        self.decision: Decision | None = None
        self._schedule = schedule
        self._points: list[Point] = []

    def measured(self, step: int, bag_loss: float) -> Decision | None:
        """Take in a validation in the superposed stage, on every rank the same.

        Args:
            step: after which it was.
            bag_loss: held-out, as the ledger has it.

        Returns:
            The decision, if it is this validation's.
        """
        before = self.decision
        # A finished run that is started again is validated again.
        self._set([*(p for p in self._points if p.step < step), Point(step, bag_loss)])
        return self.decision if before is None else None

    def go_back(self, step: int) -> None:
        """Forget what was measured after a step, since the run goes on from there."""
        self._set([point for point in self._points if point.step <= step])

    def restore(self, saved: dict[str, Any]) -> None:
        """Take over the measurements of a checkpoint's run."""
        self._set([Point(int(step), float(loss)) for step, loss in saved["points"]])

    def as_saved(self) -> dict[str, Any]:
        """The rule and the measurements, and for a reader what has followed from them."""
        return {
            "rule": VERSION,
            **asdict(self.rule),
            "points": [[point.step, point.bag_loss] for point in self._points],
            "switch_step": None if self.decision is None else self.decision.switch_step,
        }

    def _set(self, points: Iterable[Point]) -> None:
        self._points = list(points)
        self.decision = decide(self._points, self.rule)
        self._schedule.close(None if self.decision is None else self.decision.switch_step)


class SwitchListener(Listener):
    """Lets the switch decide at every validation in a superposed stage, the same on every rank.

    Args:
        switch: of the run.
    """

    def __init__(self, switch: AutoSwitch) -> None:
        self._switch = switch

    def evaluated(self, evaluated: Evaluated) -> None:
        """Take in the loss on bags, and tell what follows from it."""
        progress = evaluated.progress
        stage = progress.stage
        if not progress.samples or stage.loss != BAG_LOSS or stage.facts["bag_size"] == 1:
            return
        loss = loss_on_all_ranks(evaluated.losses.get(BAG_LOSS))
        decision = self._switch.measured(progress.step, loss)
        if decision is not None:
            evaluated.facts["switch_step"] = decision.switch_step
            evaluated.scalar("switch-step", decision.switch_step)
            evaluated.say(f" {decision.in_words()}")


def loss_on_all_ranks(loss: Tensor | None) -> float:
    """The last rank's loss, which is of the last pipeline stage: one broadcast of 8 bytes.

    Args:
        loss: of this rank, if it has one.
    """
    value = float("nan") if loss is None else float(loss)
    shared = torch.tensor([value], dtype=torch.float64, device=torch.cuda.current_device())
    torch.distributed.broadcast(shared, src=torch.distributed.get_world_size() - 1)
    return shared.item()


def rule_of(args: argparse.Namespace, schedule: OpenSchedule) -> Rule:
    """What decides a run's switch beside its measurements."""
    return Rule(
        bag_size=schedule.bag_size,
        train_iters=train_steps(args),
        warmup_steps=_warmup_steps(args),
        first_switch=schedule.first_switch,
        last_switch=schedule.last_switch,
    )


def take_over(switch: AutoSwitch, saved: dict[str, Any], step: int) -> None:
    """Take over what another run, or this one under another length or limits, has measured.

    Args:
        switch: of this run.
        saved: of the checkpoint.
        step: that the run goes on from.

    Raises:
        UserError: bags have ended, and this run would go back to them.
    """
    if saved["bag_size"] != switch.rule.bag_size:
        return
    switch.restore(saved)
    ended = saved["last_switch"] if saved["switch_step"] is None else saved["switch_step"]
    end = switch.rule.last_switch if switch.decision is None else switch.decision.switch_step
    if ended <= step < end:
        raise UserError(
            f"the run has left its bags after step {ended}, and --tst-schedule auto of "
            f"{switch.rule.train_iters} steps would go back to them at step {step}: end them where "
            f"they ended, with --tst-schedule {saved['bag_size']}:{ended}steps"
        )


def check_auto_switch(args: argparse.Namespace, rule: Rule) -> None:
    """Check that a decision can be made at all, and in time for the data loaders.

    Args:
        args: validated by Megatron.
        rule: of the run.

    Raises:
        UserError: there are too few validations, or data are read too far ahead.
    """
    steps = range(args.eval_interval, rule.train_iters + 1, args.eval_interval)
    measured = [step for step in steps if step > rule.warmup_steps]
    deciding = [step for step in measured[MIN_POINTS - 1 :] if rule.may_switch(step)]
    if not deciding:
        raise UserError(
            f"--eval-interval {args.eval_interval} leaves --tst-schedule auto no validation to "
            f"decide at: {MIN_POINTS} or more must come after the learning rate's warm-up and "
            f"{LEAD_STEPS} steps before step {rule.last_switch}, so lower it"
        )
    num_microbatches = args.global_batch_size // (args.micro_batch_size * args.data_parallel_size)
    ahead = -(-_BATCHES_AHEAD_A_WORKER * args.num_workers // num_microbatches)
    if ahead > LEAD_STEPS:
        most = LEAD_STEPS * num_microbatches // _BATCHES_AHEAD_A_WORKER
        raise UserError(
            f"--num-workers {args.num_workers} reads {ahead} steps ahead, and --tst-schedule auto "
            f"switches {LEAD_STEPS} steps after a measurement: use {most} or fewer"
        )


def _warmup_steps(args: argparse.Namespace) -> int:
    """Steps of the learning rate's warm-up (megatron/training/training.py,
    ``get_optimizer_param_scheduler``)."""
    if args.lr_warmup_fraction is not None:
        return round(args.lr_warmup_fraction * (args.lr_decay_iters or train_steps(args)))
    if args.lr_warmup_samples:
        return -(-args.lr_warmup_samples // args.global_batch_size)
    return int(args.lr_warmup_iters)
