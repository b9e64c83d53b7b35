"""A header's count of active parameters against the operations that a position took."""

from pathlib import Path
from typing import Any

import pytest

from tst_megatron.runs.active_parameters import impossible_count
from tst_megatron.runs.inputs import read_runs
from tst_megatron.runs.ledger import Ledger
from tst_megatron.runs.run import run_of_ledger

STUDY = Path(__file__).parents[3] / "docs" / "studies" / "equal-loss" / "ledgers"
# By hand: h = 128, V = 384, L = 128, 2 layers, 4 heads of 32, 2 of 8 gated experts of 192.
HIDDEN, VOCABULARY, LENGTH, LAYERS = 128, 384, 128, 2
ATTENTION, EXPERT = 4 * HIDDEN**2, 3 * HIDDEN * 192
NORMS, ROUTER = 2 * HIDDEN, 8 * HIDDEN
ACTIVE = VOCABULARY * HIDDEN + LAYERS * (ATTENTION + 2 * EXPERT + NORMS + ROUTER) + HIDDEN
EVERY_EXPERT = ACTIVE + LAYERS * 6 * EXPERT
MULTIPLIED = ACTIVE - LAYERS * (NORMS + ROUTER) - HIDDEN
PER_POSITION = 6 * MULTIPLIED + 6 * LAYERS * LENGTH * HIDDEN
FLAGS = {
    "num_layers": LAYERS,
    "hidden_size": HIDDEN,
    "ffn_hidden_size": 384,
    "num_experts": 8,
    "moe_router_topk": 2,
}


def ledger(active: int, *rates: float, **flags: Any) -> Ledger:
    lines = [
        {"step": at, "positions": 512 * at, "flops": 512 * at * rate, "facts": {}}
        for at, rate in enumerate(rates or (PER_POSITION,), start=1)
    ]
    header = {"flags": FLAGS | flags, "parameters": {"total": 1_411_712, "active": active}}
    return Ledger(header, lines, path=Path("run"))


def test_the_count_of_all_experts_is_not_believed() -> None:
    """As headers had it before experts were told by their names."""
    assert (ACTIVE, EVERY_EXPERT) == (477_824, 1_362_560)
    assert impossible_count(ledger(ACTIVE)) is None
    run = run_of_ledger(ledger(EVERY_EXPERT), "run")
    assert run.notes == (
        "Its header has 1,362,560 active parameters, and its 3,047,424 operations a position are "
        "of 507,904 at most: its counts of parameters are not used.",
    )
    assert "parameters" not in run.header
    assert not any("parameters" in name for name in run.facts.topics["model"])


@pytest.mark.parametrize(
    "told",
    [
        ledger(EVERY_EXPERT, PER_POSITION, 2 * PER_POSITION),
        ledger(EVERY_EXPERT, num_layers=None),
        Ledger({"flags": FLAGS}, ledger(1).steps, path=Path("run")),
        Ledger(ledger(EVERY_EXPERT).header, path=Path("run")),
    ],
)
def test_where_too_little_is_told_nothing_is_said(told: Ledger) -> None:
    assert impossible_count(told) is None


def test_the_studys_ledgers_have_the_right_count() -> None:
    """They were written by a version that counted all experts."""
    runs = read_runs(sorted(STUDY.glob("moe-*-seed1.jsonl.gz")))
    assert len(runs) == 2
    for run in runs:
        assert run.header["parameters"] == {"total": 1_411_712, "active": ACTIVE}
        assert run.notes == ()
