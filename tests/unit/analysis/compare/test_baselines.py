"""Baselines of several settings: the strongest counts, in whatever order they come."""

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from ledgers import write_ledger

from tst_megatron.analysis.compare.compare import compare_paths
from tst_megatron.analysis.compare.result import Findings, Prices

FLAGS = {"lr_decay_style": "constant", "lr": 1e-3, "adam_beta2": 0.95}


def write(path: Path, gain: float, end: int = 100, s: int = 1, **flags: Any) -> Path:
    path.mkdir()
    losses = {step: 2 + 3 * (gain * step) ** -0.3 for step in range(end // 20, end + 1, end // 20)}
    stages = None if s == 1 else [(s, end)]
    write_ledger(
        path / "ledger.jsonl", losses, stages=stages, planned=end, flags={**FLAGS, **flags}
    )
    return path


def found(baselines: Any, tst: Path) -> Findings:
    return compare_paths(list(baselines), [tst], 0.95, False, Prices())


def test_the_strongest_setting_counts_in_any_order(tmp_path: Path) -> None:
    """The weak one first came out as 1.67 times fewer, the good one first as more."""
    tst = write(tmp_path / "tst", 1.2, s=4, lr=2e-3)
    weak = write(tmp_path / "weak", 0.7)
    good = write(tmp_path / "good", 1.5, lr=2e-3, adam_beta2=0.99)
    # Of another length and the weak setting: no longer run of the good one.
    long = write(tmp_path / "long", 0.7, end=200)
    for order in permutations((weak, good, long)):
        one = found(order, tst)
        (comparison,) = one.comparisons
        assert comparison.equal_loss.step_ratio.value == pytest.approx(1.2 / 1.5, rel=0.02)
        assert [group.runs[0].name for group in comparison.baseline] == ["good"]
        assert {group.runs[0].name for group in one.baseline} == {"good", "weak", "long"}
        told = " ".join(comparison.notes)
        assert told.count("is not used: its settings are not those of") == 2
        assert "which ended lower (adam_beta2, lr)" in told


def test_what_follows_from_the_length_parts_nothing(tmp_path: Path) -> None:
    tst = write(tmp_path / "tst", 1.5, s=4)
    runs = [
        write(tmp_path / str(end), 1.0, end=end, lr_warmup_iters=end // 10) for end in (100, 200)
    ]
    (comparison,) = found(runs, tst).comparisons
    assert [group.num_steps for group in comparison.baseline] == [100, 200]
    assert comparison.equal_loss.step_ratio.value == pytest.approx(1.5, rel=0.02)


def test_how_it_is_computed_parts_no_seeds(tmp_path: Path) -> None:
    tst = write(tmp_path / "tst", 1.5, s=4)
    runs = [
        write(tmp_path / str(size), 1.0, micro_batch_size=size, tensor_model_parallel_size=size)
        for size in (1, 2)
    ]
    (comparison,) = found(runs, tst).comparisons
    assert [len(group.runs) for group in comparison.baseline] == [2]


def test_a_baseline_without_a_loss_at_its_end_is_named(tmp_path: Path) -> None:
    tst, good = write(tmp_path / "tst", 1.5, s=4), write(tmp_path / "good", 1.0)
    (tmp_path / "bad").mkdir()
    write_ledger(tmp_path / "bad" / "ledger.jsonl", {}, last_step=100, flags={**FLAGS, "lr": 9e-3})
    (comparison,) = found([tmp_path / "bad", good], tst).comparisons
    assert comparison.equal_loss.step_ratio.value == pytest.approx(1.5, rel=0.02)
    assert any("There is no final held-out loss of" in note for note in comparison.notes)
