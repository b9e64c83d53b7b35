"""What the growth study's report says of ledgers that are made with known differences."""

import gzip
import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tst_megatron.errors import UserError
from tst_megatron.experiments.kept import Kept

FOLDER = Path(__file__).parents[3] / "examples/growth-study"
MODULES = ("study", "kinds", "equal_loss", "parts", "tables", "pictures", "report")
RATES = {"2L": 6e-4, "8L": 3e-4, "4L": 6e-4, "4L-8x": 5e-4}
LEVELS = {1: 0.02, 2: -0.03, 3: 0.01}
"""What a seed has in common in all of its runs."""
GAINS = {"stack": -0.10, "zero": 0.05, "stack-new": -0.05, "upcycle": -0.06, "drop0.5": -0.02}
SLOPES = {"2L": 0.10, "8L": 0.25, "4L": 0.12, "4L-8x": 0.2}
"""What a doubling of FLOPs gains a control."""


@pytest.fixture(scope="module")
def example(modules_of) -> SimpleNamespace:
    return modules_of("growth-study", *MODULES)


@pytest.fixture
def ledgers(tmp_path: Path) -> Path:
    folder = tmp_path / "ledgers"
    folder.mkdir()
    (folder / "rates.json").write_text(json.dumps(RATES))
    return folder


def keep(
    ledgers: Path, run: Any, loss: float | None, flops: float | None = None, points: int = 2
) -> None:
    """A ledger of a run that ended so; its small model's steps are at the small model's price."""
    steps, lines = run.steps, []
    spent, model, prices = 0.0, run.change.before if run.change else run.model, []
    for step in np.linspace(1, steps, points).round().astype(int).tolist():
        before = min(step, run.first)
        price = model.flops_a_step if run.change else run.model.flops_a_step
        spent = before * price + (step - before) * run.model.flops_a_step
        in_bags = step <= run.bag_steps
        noise = 0.03 * math.sin(7.3 * step + run.seed)
        at = 5 * math.exp(-spent / 4e12) + 0.3 * (1 - spent / 4.1e13) + noise
        prices.append(spent)
        lines.append(
            {
                "kind": "step",
                "step": step,
                "flops": spent,
                "loss_name": "bag loss" if in_bags else "lm loss",
                "loss": (loss or 2.0) + at + 3 * in_bags,
                "learning_rate": run.rate,
            }
        )
    header = {
        "kind": "header",
        "schema_version": 3,
        "run_id": run.name,
        "step": 0,
        "seed": run.seed,
        "flags": {"train_iters": steps, "lr_decay_style": "WSD", "lr_wsd_decay_iters": steps // 10},
    }
    end = {"kind": "validation", "step": steps, "flops": flops or prices[-1]}
    end |= {"next_token_loss": loss, "next_token_loss_stderr": 0.01}
    text = "".join(json.dumps(line) + "\n" for line in (header, *lines, end))
    (ledgers / f"{run.name}.jsonl.gz").write_bytes(gzip.compress(text.encode(), 1))


def true_loss(run: Any) -> float:
    """Controls straight over the logarithm of FLOPs; changed runs a gain below the large one."""
    loss = 1.85 if run.model.num_layers == 8 or run.model.num_experts else 1.95
    if run.change is None:
        loss -= SLOPES[run.model.name] * math.log2(run.length)
    else:
        loss += GAINS[run.change.name]
    return loss - 0.04 * bool(run.bags) + 0.01 * (run.rate_after is not None)


def made(run: Any, scatter: float = 0.0) -> float:
    own = np.random.default_rng(sum(map(ord, run.name)) * 7 + run.seed)
    return true_loss(run) + LEVELS.get(run.seed, 0.0) + scatter * float(own.standard_normal())


def planned(example: SimpleNamespace, ledgers: Path) -> list[Any]:
    study = example.study.Study(Kept(ledgers))
    return list(dict.fromkeys([*study.growth(), *study.upcycling()]))


def is_kept(ledgers: Path, run: Any) -> bool:
    return Kept(ledgers).has(run.name)


def reported(example: SimpleNamespace, ledgers: Path) -> tuple[dict[str, Any], str]:
    """The figures of growth, and what is printed."""
    parts, notes = example.report.told_by(example.study.Study(Kept(ledgers)))
    figures = json.loads(example.report.figures(parts, notes))
    return figures["families"][0], example.report.markdown(parts, notes)


def kinds(family: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in family["kinds"]}


def holds(found: dict[str, Any], truth: float) -> bool:
    return bool(found["low"] <= truth <= found["high"])


def test_a_whole_study_gives_the_differences_that_it_was_made_with(
    example: SimpleNamespace, ledgers: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    # The first runs that choose a rate ask for further ones.
    while todo := [run for run in planned(example, ledgers) if not is_kept(ledgers, run)]:
        for run in todo:
            off = math.log2(run.rate / RATES[run.model.name])
            loss = 2.0 + 0.05 * off**2 if run.part == "rate" else made(run, 0.005)
            keep(ledgers, run, loss, points=60)
    out = ledgers.parent / "out"
    monkeypatch.setattr(sys, "argv", ["report", "--ledgers", str(ledgers), "--out", str(out)])
    assert example.report.main() == 0
    printed = capsys.readouterr().out
    growth = json.loads((out / "figures.json").read_text())["families"][0]
    found = kinds(growth)
    stack = found["stack at 25 %"]
    assert sorted(stack["ends"]) == ["1", "2", "3"]
    assert holds(stack["less_large"], -0.10)
    assert holds(stack["less_small"], -0.20)
    assert stack["less_large"]["high"] < 0
    assert holds(found["8L from scratch"]["less_small"], -0.10)
    with_bags = found["stack at 25 %, bags for 25 %"]
    assert holds(with_bags["bags_add"], -0.04)
    assert holds(with_bags["less_large_bags"], -0.10)
    # 0.10 below a control of which a doubling gains 0.25.
    assert holds(stack["large_needs"], 2 ** (0.10 / 0.25))
    assert "8L from scratch has 1 at 0.5×, 3 at 1× and 1 at 2×." in printed
    # 0.20 below one of which a doubling gains 0.10.
    assert stack["small_needs"]["value"] is None
    assert stack["small_needs"]["how"] == "more than 2×"
    assert "| more than 2× | not measured |" in printed
    assert not growth["missing"]
    said = " ".join(growth["shown"])
    assert "Ahead of both controls: stack at 10 %; stack at 25 %" in said
    assert "behind 8L from scratch: zero at 25 %" in said
    assert found["stack at 50 %, the large one's rate from there"]["less_large"]["value"] < 0
    assert growth["rates"][0]["optimum"] == pytest.approx(RATES["2L"], rel=0.05)
    assert "### Upcycling: held-out loss at equal FLOPs" in printed
    assert "| upcycled, half dropped" not in printed  # It has a share.
    assert "| upcycled at 25 %, half dropped | 1, 2, 3 |" in printed
    assert (out / "table.csv").read_text().count("\n") == 1 + sum(
        len(one["kinds"]) for one in json.loads((out / "figures.json").read_text())["families"]
    )
    assert (out / "study.png").read_bytes().startswith(b"\x89PNG")
    assert "curves-growth-plain" in (out / "report.html").read_text()


def test_intervals_hold_a_made_difference_as_often_as_they_say(example: SimpleNamespace) -> None:
    """Seeds move both runs alike, and each run by itself."""
    family, rng, draws = example.kinds.FAMILIES[0], np.random.default_rng(0), 1000
    large = example.study.Run("control", family.large, 0, 3e-4)
    other = replace(large, part="stack")

    def kind(run: Any, losses: Any) -> Any:
        ends = {s: example.kinds.Ended(x, 0.01, 4.1e13) for s, x in enumerate(losses)}
        return example.kinds.Kind(family, run, ends)

    held = 0
    for _ in range(draws):
        level, noise = rng.normal(0, 0.1, 3), rng.normal(0, 0.02, (2, 3))
        found = example.kinds.difference(
            kind(other, 1.8 + level + noise[0]), kind(large, 1.9 + level + noise[1])
        )
        held += found.mean.holds(-0.1)
    # Five standard deviations of a binomial count.
    assert abs(held - 0.95 * draws) < 5 * math.sqrt(draws * 0.95 * 0.05)


def some(example: SimpleNamespace, ledgers: Path, wanted: Callable[[Any], bool]) -> dict[str, Any]:
    """Ledgers of the runs of growth that are wanted, without scatter."""
    runs = [r for r in planned(example, ledgers) if r.part != "rate" and r.model.num_layers != 4]
    for run in filter(wanted, runs):
        keep(ledgers, run, made(run))
    return {run.name: run for run in runs}


def test_one_seed_has_no_interval_and_shows_nothing(
    example: SimpleNamespace, ledgers: Path
) -> None:
    some(example, ledgers, lambda run: run.seed == 1)
    growth, printed = reported(example, ledgers)
    stack = kinds(growth)["stack at 25 %"]
    assert stack["less_large"]["value"] == pytest.approx(-0.10)
    assert stack["less_large"]["low"] is None
    assert "| −0.100 | one seed |" in printed
    assert stack["large_needs"]["value"] == pytest.approx(2 ** (0.10 / 0.25), rel=2e-3)
    assert stack["large_needs"]["how"] == "one seed"
    assert growth["shown"][1].startswith("One seed, so nothing shown, against both controls: ")
    assert not any("ahead" in one.lower() for one in growth["shown"])
    assert "stack at 25 %: seeds 2 and 3" in growth["missing"]
    assert "Upcycling: no run of it is there, so nothing is said of it." in printed


def test_a_control_that_is_not_there_or_lacks_a_seed_is_said(
    example: SimpleNamespace, ledgers: Path
) -> None:
    gone = ("control-2L", "control-8L-seed3", "control-8L-x")
    some(example, ledgers, lambda run: not run.name.startswith(gone))
    growth, _ = reported(example, ledgers)
    stack = kinds(growth)["stack at 25 %"]
    assert sorted(stack["less_large"]["of_seeds"]) == ["1", "2"]
    assert "less_small" not in stack
    said = " ".join(growth["notes"])
    assert "No run of 2L trained on is there: no difference to it is told." in said
    assert "Of 8L from scratch no seed 3 counts" in said
    assert "How many FLOPs 8L from scratch needs for another's loss is not measured" in said
    assert "8L from scratch: seed 3" in growth["missing"]
    assert "ahead of 8L from scratch: stack at 10 %" in " ".join(growth["shown"])


@pytest.mark.parametrize(("factor", "is_left_out"), [(1.03, True), (0.97, True), (1.005, False)])
def test_flops_that_are_not_equal_are_in_no_table(
    example: SimpleNamespace,
    ledgers: Path,
    factor: float,
    is_left_out: bool,
) -> None:
    runs = some(example, ledgers, lambda run: run.name.startswith(("control", "stack-8L-at25-s")))
    off = runs["stack-8L-at25-seed2"]
    keep(ledgers, off, 0.5, factor * off.flops)
    growth, printed = reported(example, ledgers)
    seeds = sorted(kinds(growth)["stack at 25 %"]["ends"])
    assert seeds == (["1", "3"] if is_left_out else ["1", "2", "3"])
    told = [one for one in growth["notes"] if one.startswith(f"{off.name} counts nowhere: ")]
    assert len(told) == is_left_out
    if is_left_out:
        assert "differ by more than 2 %" in told[0]
        assert "3.0 % more" in told[0] or "3.0 % fewer" in told[0]
    apart = [one for one in growth["notes"] if "differ by at most" in one]
    assert ("0.5" in apart[0].split("at most")[1].split("%")[0]) != is_left_out
    assert f"| stack at 25 % | {', '.join(seeds)} |" in printed


def test_a_run_without_a_loss_and_a_ledger_of_no_run_are_said(
    example: SimpleNamespace, ledgers: Path
) -> None:
    runs = some(example, ledgers, lambda run: run.name.startswith("control"))
    keep(ledgers, runs["stack-8L-at50-seed1"], None)
    other = ledgers / "stack-8L-at33-seed1.jsonl.gz"
    other.write_bytes((ledgers / "control-8L-seed1.jsonl.gz").read_bytes())
    growth, printed = reported(example, ledgers)
    assert "stack-8L-at50-seed1 counts nowhere: it ended without a loss." in growth["notes"]
    assert "stack at 50 %" not in kinds(growth)
    assert "Of no run of the plan, and not looked at: stack-8L-at33-seed1." in printed


def test_before_rates_are_chosen_they_are_all_that_is_told(
    example: SimpleNamespace, ledgers: Path
) -> None:
    (ledgers / "rates.json").unlink()
    first = next(run for run in planned(example, ledgers) if run.model.name == "2L")
    keep(ledgers, first, 2.1)
    growth, printed = reported(example, ledgers)
    assert growth["kinds"] == []
    assert "The rate of 2L and 8L is not chosen yet" in " ".join(growth["notes"])
    assert any(one.startswith("2L, to choose its rate: rates ") for one in growth["missing"])
    assert "by learning rate (one seed)" in printed
    assert not (ledgers / "rates.json").exists()


def test_an_empty_folder_is_refused(
    example: SimpleNamespace, ledgers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["report", "--ledgers", str(ledgers), "--out", "nowhere"])
    with pytest.raises(UserError, match="holds no ledger of the study"):
        example.report.main()
