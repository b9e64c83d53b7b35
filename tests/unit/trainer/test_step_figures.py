"""Figures that ride along with a step wait for the GPU only where the step is logged."""

import argparse
from typing import Any

import pytest
from megatron.core.transformer.multi_token_prediction import MTPLossLoggingHelper

from tst_megatron.methods.events import LoggedStep, Progress
from tst_megatron.methods.method import Ordinary
from tst_megatron.runs.stages import ordinary_stage
from tst_megatron.trainer.metrics import HeadMetrics, RouterMetrics
from tst_megatron.trainer.progress import ProgressCounter


class OnGpu:
    """A loss that counts how often it is waited for."""

    def __init__(self) -> None:
        self.waits = 0

    def __float__(self) -> float:
        self.waits += 1
        return 2.0

    def __radd__(self, other: Any) -> Any:
        return other


class Tracker:
    """Reports one loss a step."""

    def __init__(self, loss: OnGpu) -> None:
        self.loss = loss

    def report(self, *, total_loss_dict: dict[str, Any]) -> str:
        total_loss_dict["load_balancing_loss"] = self.loss
        return ""


def extras_of(listener: HeadMetrics | RouterMetrics) -> dict[str, float]:
    """What it adds to a logged step."""
    now = Progress(1, 0, ordinary_stage(10))
    step = LoggedStep(now, {}, None, None, {}, {}, lambda name, value: None)
    listener.step_logged(step)
    return step.extras


def test_router_losses_are_waited_for_when_asked() -> None:
    loss = OnGpu()
    routers = RouterMetrics(Tracker(loss))
    for _ in range(3):
        routers.report(total_loss_dict={})
    assert loss.waits == 0
    assert extras_of(routers) == {"load_balancing_loss": 2.0}


def test_losses_of_heads_are_waited_for_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = OnGpu()
    monkeypatch.setattr(
        MTPLossLoggingHelper,
        "track_mtp_metrics",
        lambda scale, iteration, writer, wandb_writer, losses: losses.update({"mtp_1 loss": loss}),
    )
    args = argparse.Namespace(
        iteration=0,
        consumed_train_samples=0,
        seq_length=8,
        num_floating_point_operations_so_far=0,
        log_interval=10,
        train_iters=10,
        train_samples=None,
        global_batch_size=1,
        step_batch_size_schedule=None,
    )
    heads = HeadMetrics(args, ProgressCounter(args, Ordinary(args)))
    total: dict[str, Any] = {"advanced iterations": 1, "skipped iterations": 0}
    heads.track_mtp_metrics(1.0, 1, None, None, total)
    assert loss.waits == 0
    assert extras_of(heads) == {"mtp_1 loss": 2.0}
