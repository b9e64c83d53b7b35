from typing import Any

import numpy as np
import pytest

from tst_megatron.runs.planned import decay_start, planned_steps
from tst_megatron.runs.run import StepSeries


def logged(*rates: float) -> StepSeries:
    unknown = np.full(len(rates), np.nan)
    return StepSeries(
        steps=10.0 * (1 + np.arange(len(rates))),
        positions=unknown,
        data_tokens=unknown,
        flops=unknown,
        wall_clock_s=unknown,
        gpu_hours=unknown,
        losses=unknown,
        loss_names=(None,) * len(rates),
        bag_sizes=unknown,
        learning_rates=np.array(rates, dtype=np.float64),
        grad_norms=unknown,
        compute_s=unknown,
        other_s=unknown,
    )


@pytest.mark.parametrize(
    ("flags", "start"),
    [
        ({"lr_decay_style": "WSD", "train_iters": 100, "lr_wsd_decay_iters": 10}, 90),
        (
            {
                "lr_decay_style": "WSD",
                "train_iters": 100,
                "lr_decay_iters": 80,
                "lr_wsd_decay_iters": 10,
            },
            70,
        ),
        (
            {
                "lr_decay_style": "WSD",
                "train_samples": 400,
                "lr_wsd_decay_samples": 40,
                "global_batch_size": 4,
            },
            90,
        ),
        ({"lr_decay_style": "cosine", "train_iters": 100, "lr_warmup_iters": 7}, 7),
        ({"lr_decay_style": "linear", "train_iters": 100, "lr_warmup_fraction": 0.05}, 5),
        ({"lr_decay_style": "linear", "train_iters": 100}, 0),
        ({"lr_decay_style": "constant", "train_iters": 100}, 100),
        # Said by the flags in no way that tells: the log does.
        ({"lr_decay_style": "WSD", "train_iters": 100}, 30),
        ({"lr_decay_style": "WSD", "train_iters": "many"}, 30),
        ({}, 30),
    ],
)
def test_the_flags_say_where_the_decay_starts(flags: dict[str, Any], start: int):
    assert decay_start({"flags": flags}, logged(0.5, 1.0, 1.0, 0.4, 0.0)) == start


@pytest.mark.parametrize(
    ("rates", "start"),
    [
        ((), None),
        ((1.0,), None),
        ((np.nan, np.nan), None),
        ((0.1, 1.0, 1.0), 30),
        ((0.1, 1.0, np.nan, 1.0 - 1e-8, 0.9, 0.5), 40),
        ((1.0, 0.9, 1.0, 0.2), 30),
    ],
)
def test_the_log_says_where_the_decay_starts(rates: tuple[float, ...], start: int | None):
    assert decay_start({}, logged(*rates)) == start


@pytest.mark.parametrize(
    ("flags", "steps"),
    [
        ({"train_iters": 9}, 9),
        ({"train_samples": 400, "global_batch_size": 4}, 100),
        ({"train_samples": 400, "global_batch_size": 4, "rampup_batch_size": [1, 1, 9]}, None),
        ({"train_samples": 400}, None),
        ({}, None),
    ],
)
def test_planned_steps(flags: dict[str, Any], steps: int | None):
    assert planned_steps({"flags": flags}) == steps
