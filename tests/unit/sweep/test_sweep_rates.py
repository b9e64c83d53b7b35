"""Learning rates in a sweep: best against best, chosen with a seed and confirmed with others."""

import math
from pathlib import Path

import pytest
from rich.console import Console
from surfaces import SEARCH

from tst_megatron.experiments.search import Halving, rungs_of
from tst_megatron.methods.superposition.axes import BASELINE, Pair
from tst_megatron.runs.outcomes import AtRate, Outcome
from tst_megatron.sweep.outcomes_csv import read_csv
from tst_megatron.sweep.rates import named_rates, tuned
from tst_megatron.sweep.report import Found, print_report, write_report

RATES = (2.5e-4, 5e-4, 1e-3, 2e-3)
PAIRS = (Pair(4, 0.2), Pair(4, 0.4), Pair(8, 0.2))
BEST = {BASELINE: 5e-4, **dict.fromkeys(PAIRS, 2e-3)}
LEAST = {BASELINE: 1.585, PAIRS[0]: 1.48, PAIRS[1]: 1.47, PAIRS[2]: 1.50}
BEND = 0.02


def outcomes(seeds: tuple[int, ...] = (4, 1, 2)) -> list[Outcome]:
    """All rates with the first seed, which is luckier than the others, the best with the rest."""
    first, *others = seeds
    found = [
        Outcome(AtRate(c, rate), first, loss(c, rate) - 0.1, gpu_hours=1.0)
        for c in BEST
        for rate in RATES
    ]
    found += [
        Outcome(AtRate(c, BEST[c]), s, loss(c, BEST[c]) + 0.01 * s, gpu_hours=1.0)
        for c in BEST
        for s in others
    ]
    return named_rates(found)


def loss(choice: Pair, rate: float) -> float:
    return LEAST[choice] + BEND * math.log(rate / BEST[choice]) ** 2


def test_each_choice_comes_with_the_runs_that_did_not_choose_its_rate() -> None:
    found = tuned(outcomes())
    assert {c: (r.best.rate, r.best.chosen_on) for c, r in found.rates.items()} == {
        c: (rate, (4,)) for c, rate in BEST.items()
    }
    assert {(o.choice, o.seed, o.learning_rate) for o in found.outcomes} == {
        (c, seed, rate) for c, rate in BEST.items() for seed in (1, 2)
    }
    parabola = found.rates[BASELINE].parabola
    assert parabola is not None
    assert parabola.optimum == pytest.approx(5e-4)
    assert parabola.added_at_double == pytest.approx(BEND * math.log(2) ** 2)
    assert [r.edge for r in found.rates.values()] == [None, *["highest"] * 3]


def test_without_rates_nothing_changes() -> None:
    plain = [Outcome(BASELINE, 1, 3.2), Outcome(Pair(4, 0.3), 1, 3.1)]
    assert tuned(plain).outcomes == tuple(plain)
    assert tuned(plain).rates == {}


def test_the_report_compares_best_with_best(tmp_path: Path) -> None:
    ran = tuple(outcomes())
    found = Found(SEARCH, "r", 100, ran, len(ran), num_seeds=3)
    report = write_report(tmp_path, found)
    gain = LEAST[BASELINE] - LEAST[PAIRS[1]]
    assert report["recommendation"]["gain"]["value"] == pytest.approx(gain)
    assert not report["partial"]
    said = " ".join(report["notes"])
    assert "its best learning rate: the baseline at 0.0005; s = 4, r = 0.4 at 0.002" in said
    assert "Rates are chosen on seed 4; losses and gain are of seeds 1 and 2." in said
    assert "s = 8, r = 0.2 is the highest that was tried: add a higher one." in said
    cells = {(c["bag_size"], c["step_ratio"]): c for c in report["cells"]}
    assert cells[1, 0.0]["learning_rate"] == 5e-4
    assert cells[1, 0.0]["gpu_hours"] == 6
    assert cells[1, 0.0]["seeds"] == [1, 2]
    (row, *_) = report["learning_rates"]
    assert [one["rate"] for one in row["tried"]] == list(RATES)
    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")
    assert "over the learning rate" in (tmp_path / "report.html").read_text()
    assert read_csv(tmp_path / "cells.csv", [SEARCH])[1] == list(ran)
    console = Console(width=160)
    with console.capture() as captured:
        print_report(SEARCH, report, console)
    assert "*1.4850" in captured.get()


def test_one_seed_is_said_to_confirm_nothing(tmp_path: Path) -> None:
    ran = tuple(outcomes((1,)))
    report = write_report(tmp_path, Found(SEARCH, "r", 100, ran, len(ran)))
    assert any(
        "Rates are chosen on the runs that losses and gain are of" in note
        and note.endswith("add --seeds.")
        for note in report["notes"]
    )


def test_a_rate_that_diverged_takes_no_choice_with_it(tmp_path: Path) -> None:
    ran = [*outcomes(), Outcome(Pair(4, 0.2), 4, math.nan, learning_rate=4e-3)]
    found = tuned(ran)
    assert found.rates[Pair(4, 0.2)].best.rate == 2e-3
    report = write_report(tmp_path, Found(SEARCH, "r", 100, tuple(ran), len(ran), num_seeds=3))
    assert any("r = 0.2 at 0.004 with seed 4" in note for note in report["notes"])
    assert len([c for c in report["cells"] if c["loss"] is not None]) == 4


def test_halving_says_that_shorter_runs_chose_the_rates(tmp_path: Path) -> None:
    units = [AtRate(c, rate) for c in (BASELINE, PAIRS[0]) for rate in (5e-4, 2e-3)]
    baselines, cells = (
        {u: loss(u.choice, u.learning_rate) for u in units if u.is_baseline == is_it}
        for is_it in (True, False)
    )
    last = ({units[0]: baselines[units[0]]}, {units[3]: cells[units[3]]})
    halving = Halving(
        rungs_of(2, 100, 2), (cells, last[1]), 1, 400, None, of_baseline=(baselines, last[0])
    )
    ran = named_rates([Outcome(u, 1, x) for one in last for u, x in one.items()])
    report = write_report(tmp_path, Found(SEARCH, "r", 100, tuple(ran), 4, halving=halving))
    said = " ".join(report["notes"])
    assert "were halved too, the baseline's by themselves: those of the whole runs were" in said
    assert "That of the baseline is the lowest that was tried: add a lower one." in said
    assert "That of s = 4, r = 0.2 is the highest that was tried: add a higher one." in said
    first, second = report["halving"]["rungs"]
    assert [cell["learning_rate"] for cell in first["cells"]] == [5e-4, 2e-3, 5e-4, 2e-3]
    assert [cell["learning_rate"] for cell in second["cells"]] == [5e-4, 2e-3]
    assert report["halving"]["cost_share"] == pytest.approx((4 / 2 + 2) / 4)
