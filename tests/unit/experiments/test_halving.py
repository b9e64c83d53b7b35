"""Successive halving: its rungs, who goes on, what it costs and what it misses."""

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from surfaces import SEARCH, grid, paper

from tst_megatron.experiments import budget
from tst_megatron.experiments.budget import Trained
from tst_megatron.experiments.cells import Places, is_done
from tst_megatron.experiments.search import (
    Halving,
    Rung,
    Trials,
    better,
    run_grid,
    run_halving,
    rungs_of,
    runs_of_grid,
    steps_of,
)
from tst_megatron.methods.superposition.axes import BASELINE, Pair
from tst_megatron.runs.outcomes import AtRate
from tst_megatron.sweep.settings import settings_from_flags


@given(choices=st.integers(1, 100), steps=st.integers(8, 10**6))
@settings(deadline=None)
def test_rungs_end_in_whole_runs_and_always_lose_half(choices: int, steps: int) -> None:
    rungs = rungs_of(choices, steps)
    assert rungs[0].num_choices == choices
    assert rungs[-1].steps == steps
    for before, after in pairwise(rungs):
        assert after.num_choices == -(-before.num_choices // 2)
        assert abs(after.steps - 2 * before.steps) <= 1
    assert len(rungs) <= 4
    assert steps_of(rungs, 1) <= choices * steps


def test_an_eighth_of_all_down_to_whole_runs_of_an_eighth() -> None:
    assert rungs_of(28, 20_000) == (
        *(Rung(2500, 28), Rung(5000, 14), Rung(10_000, 7), Rung(20_000, 4)),
    )
    assert rungs_of(2, 1000) == (Rung(500, 2), Rung(1000, 1))
    assert rungs_of(1, 1000) == (Rung(1000, 1),)


def test_the_lowest_go_on_and_what_diverged_does_not() -> None:
    a, b, c = (Pair(s, 0.3) for s in (2, 4, 8))
    assert better({a: float("nan"), b: 3.0, c: 2.9}, 2) == (c, b)


def test_regret_is_what_was_chosen_over_the_best() -> None:
    losses = {r.choice: r.loss for r in paper() if not r.choice.is_baseline}
    rungs = rungs_of(4, 20_000)
    four = [Pair(7, 0.3), Pair(6, 0.3), Pair(4, 0.5), Pair(2, 0.1)]
    # A first rung in whose short runs the best is among the worst.
    first = dict(zip(four, (9.0, 5.0, 6.0, 8.0), strict=True))
    second = {choice: losses[choice] for choice in better(first, 2)}
    halving = Halving(rungs, (first, second, {Pair(6, 0.3): 3.1423}), 1, 80_000, (four[0], 3.1392))
    assert halving.chosen == Pair(6, 0.3)
    assert halving.regret == pytest.approx(0.0031)
    # 4 of a quarter, 2 of a half, 1 whole, of 4 whole ones.
    assert halving.cost_share == pytest.approx(3 / 4)


def test_a_halving_cut_short_has_chosen_nothing() -> None:
    halving = Halving(rungs_of(4, 1000), ({Pair(2, 0.3): 3.0},), 1, 4000, None)
    assert (halving.chosen, halving.regret, halving.is_done) == (None, None, False)


class Trainer:
    """Stands in for training: ledgers with the paper's losses, or none where a run fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: Sequence[str] = ()) -> None:
        self.names: list[str] = []
        self._fails = fails
        self._losses = {r.choice.name: r.loss for r in paper()}
        monkeypatch.setattr(budget, "train_cells", self)

    def __call__(self, root, cells, *others, may_start, when_failed, **named) -> bool:
        for cell in [cell for cell in cells if not is_done(root, cell)]:
            assert may_start(cell, ())
            self.names.append(cell.name)
            if cell.name in self._fails:
                when_failed(cell, "it diverged")
            else:
                self._write(root / cell.name, cell.num_steps, cell.name.partition("-seed")[0])
        return True

    def _write(self, folder: Path, steps: int, config: str) -> None:
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints" / "latest_checkpointed_iteration.txt").write_text(str(steps))
        lines = (
            {"kind": "header", "step": 0, "schema_version": 1},
            {"kind": "step", "step": steps, "loss": 3.0, "wall_clock_s": 1.0},
            {"kind": "validation", "step": steps, "next_token_loss": self._loss(config)},
        )
        (folder / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def _loss(self, config: str) -> float:
        """The paper's; at another learning rate than the one it is best at, more."""
        name, _, rate = config.partition("-lr")
        best = 1e-3 if name == "baseline" else 2e-3
        return self._losses[name] + (abs(math.log2(float(rate) / best)) if rate else 0.0)


CHOICES = grid((4, 8), (0.1, 0.3)).choices


def four(tmp_path: Path) -> Trials:
    runs = settings_from_flags(SEARCH, "tiny-baseline", ("--train-iters", "1000"))
    ordered = grid((4, 8), (0.1, 0.3)).ordered()
    return Trials(tmp_path, ordered, (1,), 1000, runs.cell, Places(1))


def halved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> tuple[Trials, Trained, Halving]:
    Trainer(monkeypatch, fails=[fails])
    trials = four(tmp_path)
    return trials, *run_halving(trials, CHOICES, Console(quiet=True))


def test_the_better_half_goes_on_and_is_compared_with_the_whole_grid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(monkeypatch)
    trials = four(tmp_path)
    _, halving = run_halving(trials, CHOICES, Console(quiet=True))
    assert [len(losses) for losses in halving.losses] == [4, 2, 1]
    assert (halving.chosen, halving.regret) == (Pair(8, 0.3), None)
    assert trainer.names[-2:] == ["s8-r0.3-seed1", "baseline-seed1"]
    run_grid(trials, Console(quiet=True))
    _, halving = run_halving(trials, CHOICES, Console(quiet=True))
    assert halving.regret == 0.0


def test_a_run_that_fails_is_last_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, trained, halving = halved(tmp_path, monkeypatch, fails="s8-r0.3-seed1-steps250")
    assert trained.failed == {"s8-r0.3-seed1-steps250": "it diverged"}
    assert halving.is_done
    assert halving.chosen == Pair(4, 0.3)


def test_nothing_is_chosen_where_the_last_run_has_no_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials, trained, halving = halved(tmp_path, monkeypatch, fails="s8-r0.3-seed1")
    assert (halving.is_done, halving.chosen, halving.regret) == (True, None, None)
    (baseline, failed) = trials.outcomes(trained.failed)
    assert (baseline.choice, failed.choice) == (BASELINE, Pair(8, 0.3))
    assert math.isnan(failed.loss)


def test_only_pairs_that_fit_the_text_are_halvinged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(monkeypatch)
    fitting = [Pair(4, 0.1), Pair(4, 0.3)]
    _, halving = run_halving(four(tmp_path), fitting, Console(quiet=True))
    assert halving.chosen == Pair(4, 0.3)
    assert not any(name.startswith("s8") for name in trainer.names)
    assert halving.cost_share == pytest.approx(1.0)


RATES = (5e-4, 1e-3, 2e-3)


def at_rates(tmp_path: Path, seeds: tuple[int, ...] = (1,)) -> Trials:
    runs = settings_from_flags(SEARCH, "tiny-baseline", ("--train-iters", "1000"))
    units = grid((4, 8), (0.3,)).at_rates(RATES)
    return Trials(tmp_path, units, seeds, 1000, runs.cell, Places(1))


def test_a_grid_of_rates_chooses_on_the_first_seed_and_goes_on_with_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(monkeypatch)
    trials = at_rates(tmp_path, seeds=(7, 1, 2))
    run_grid(trials, Console(quiet=True))
    assert trainer.names[:3] == [f"baseline-lr{rate}-seed7" for rate in (0.001, 0.0005, 0.002)]
    best = ["baseline-lr0.001", "s4-r0.3-lr0.002", "s8-r0.3-lr0.002"]
    assert sorted(trainer.names[9:]) == sorted(f"{n}-seed{seed}" for n in best for seed in (1, 2))
    assert len(trainer.names) == runs_of_grid(trials.choices, 3) == 15
    run_grid(trials, Console(quiet=True))
    assert len(trainer.names) == 15


def test_rungs_choose_over_rates_of_the_baseline_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(monkeypatch)
    trials = at_rates(tmp_path)
    candidates = [unit for unit in trials.choices if not unit.is_baseline]
    _, halving = run_halving(trials, candidates, Console(quiet=True))
    assert halving.chosen == AtRate(Pair(8, 0.3), 2e-3)
    assert [len(losses) for losses in halving.losses] == [6, 3, 2, 1]
    assert [len(losses) for losses in halving.of_baseline] == [3, 2, 1, 1]
    assert list(halving.of_baseline[-1]) == [AtRate(BASELINE, 1e-3)]
    # Beside 9 whole runs: 9 of an eighth, 5 of a quarter, 3 of a half and 2.
    assert halving.cost_share == pytest.approx((9 / 8 + 5 / 4 + 3 / 2 + 2) / 9)
    whole = [name for name in trainer.names if "-steps" not in name]
    assert whole == ["s8-r0.3-lr0.002-seed1", "baseline-lr0.001-seed1"]
