from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tst_megatron.runs.facts import Parent, facts_of
from tst_megatron.runs.ledger import Ledger
from tst_megatron.runs.run import RecordedRun, run_of_ledger


def logged(*rates: float, **flags: Any) -> RecordedRun:
    lines = [
        {"step": 10 * at, "learning_rate": None if np.isnan(rate) else rate, "facts": {}}
        for at, rate in enumerate(rates, start=1)
    ]
    return run_of_ledger(Ledger({"flags": flags}, lines, path=Path("run")), "run")


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
    assert logged(0.5, 1.0, 1.0, 0.4, 0.0, **flags).decay_start == start


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
    assert logged(*rates).decay_start == start


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
    assert facts_of({"flags": flags}).planned_steps == steps


def test_a_run_tells_of_its_methods_and_parents():
    stage = {"name": "a", "samples": 8, "tokens_a_position": 2, "loss": "l", "method": "m"}
    method = {"name": "m", "stages": [stage], "facts": {"size": 2}}
    parent = {"ledger": "p", "step": 3, "flops": 1.0, "gpu_hours": None, "data_tokens": 9}
    parent["what"] = None
    facts = facts_of({"methods": [method], "parents": [parent]})
    assert facts.methods is not None
    (told,) = facts.methods
    assert (told.name, told.facts, told.stages[0].tokens_a_position) == ("m", {"size": 2}, 2)
    assert facts.parents == (Parent("p", 3, 1.0, None, 9),)
    assert asdict(facts.parents[0]) == parent
    assert facts_of({}).methods is None
    assert facts_of({"methods": []}).methods == ()
