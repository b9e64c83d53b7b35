"""Which runs the growth study asks for, what they cost, and in which order they come."""

import importlib.util
import json
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tst_megatron.experiments.kept import Kept

FOLDER = Path(__file__).parents[3] / "examples/growth-study"
RATES = {"2L": 6e-4, "8L": 8e-4, "4L": 6e-4, "4L-8x": 5e-4}


@pytest.fixture(scope="module")
def study() -> ModuleType:
    spec = importlib.util.spec_from_file_location("growth_study", FOLDER / "study.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look their module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def asked(study: ModuleType, tmp_path: Path) -> Any:
    (tmp_path / "rates.json").write_text(json.dumps(RATES))
    return study.Study(Kept(tmp_path))


def names(runs: list[Any]) -> list[str]:
    return [run.name for run in runs if run.part != "rate"]


def value(cell: Any, flag: str) -> str:
    """The last one, which wins."""
    given = [word.partition("=")[2] for word in cell.flags if word.startswith(f"--{flag}=")]
    return str(given[-1])


def test_rates_come_first_and_decide_what_else_there_is(study: ModuleType, tmp_path: Path) -> None:
    asked = study.Study(Kept(tmp_path))
    assert {run.part for run in asked.runs()} == {"rate"}
    assert {run.seed for run in asked.runs()}.isdisjoint(study.SEEDS)
    for model in (study.SMALL, study.LARGE):
        for run, loss in zip(asked.rate_runs(model), (2.2, 2.0, 2.1, 2.3), strict=True):
            assert run.flops == pytest.approx(study.BUDGET / 2, rel=1e-3)
            asked.losses[run.name] = loss
    runs = list(dict.fromkeys(asked.runs()))
    assert names(runs)[:4] == [
        *("control-2L-seed1", "control-8L-seed1", "stack-8L-at25-seed1", "stack-8L-at50-seed1"),
    ]
    # Both rates are alike, so that there is no other one to go on at.
    assert not any("own-rate" in name for name in names(runs))


def test_a_seed_is_whole_before_the_next_and_the_main_question_before_others(asked: Any) -> None:
    found = names(asked.runs())
    main = [f"{run}-seed{seed}" for seed in (1, 2, 3) for run in MAIN]
    assert found[: len(main)] == main
    # Then all that starts from one small run, before another is needed.
    parts = ("zero-8L-at25", "zero-8L-at50", "stack-8L-at10", "stack-8L-at75")
    others = [f"{part}-seed{seed}" for seed in (3, 2, 1) for part in parts]
    assert found[len(main) :][: len(others)] == others
    # A part that is a run's own comes right before it.
    for before, after in pairwise(found):
        if "before" in before:
            assert after == before.replace("-before", "")


MAIN = ("control-2L", "control-8L", "stack-8L-at25", "stack-8L-at50")


def test_every_run_has_a_name_flags_and_the_budget(study: ModuleType, asked: Any) -> None:
    runs = list(dict.fromkeys(asked.runs()))
    assert len({run.name for run in runs}) == len(runs)
    cells = [run.cell(asked.kept.folder) for run in runs]
    assert len({(cell.flags, cell.start and cell.start.step) for cell in cells}) == len(cells)
    for run, cell in zip(runs, cells, strict=True):
        assert cell.num_steps == (run.first if run.only_before else run.steps)
        # In whole steps of the largest model, and shared checkpoints a twentieth apart.
        assert run.flops == pytest.approx(run.length * study.BUDGET, rel=2e-3)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.75])
def test_a_growth_starts_where_the_control_has_a_checkpoint(
    study: ModuleType, asked: Any, share: float
) -> None:
    name = f"stack-8L-at{100 * share:g}-seed2"
    (run,) = [one for one in asked.runs() if one.name == name]
    cell = run.cell(asked.kept.folder)
    control = cell.start.cell
    assert control.name == "control-2L-seed2"
    assert cell.start.step % int(value(control, "save-interval")) == 0
    assert cell.start.step == pytest.approx(share * control.num_steps)
    # In the stable phase: a warm-up that is over, and no decay yet.
    decay = control.num_steps - int(value(control, "lr-wsd-decay-iters"))
    assert int(value(control, "lr-warmup-iters")) < cell.start.step < decay
    # Decays take as many FLOPs in all runs.
    flops = int(value(cell, "lr-wsd-decay-iters")) * study.LARGE.flops_a_step
    other = int(value(control, "lr-wsd-decay-iters")) * study.SMALL.flops_a_step
    assert flops == pytest.approx(study.BUDGET / 10, rel=2e-3)
    assert other == pytest.approx(flops, rel=2e-3)
    assert value(cell, "grow") == "stack"
    assert float(value(cell, "lr")) == float(value(control, "lr")) == RATES["2L"]


def test_a_rate_of_its_own_holds_from_the_growth_on(asked: Any) -> None:
    (run,) = [one for one in asked.runs() if one.name == "stack-8L-at50-own-rate-seed1"]
    cell = run.cell(asked.kept.folder)
    assert float(value(cell, "lr")) == RATES["8L"]
    assert cell.start.cell.name == "control-2L-seed1"
    assert float(value(cell.start.cell, "lr")) == RATES["2L"]


def test_bags_end_with_the_growth_or_after_it(study: ModuleType, asked: Any) -> None:
    runs = {run.name: run for run in asked.runs()}

    def bags_of(run: Any) -> int:
        size, _, steps = value(run.cell(asked.kept.folder), "tst-schedule").partition(":")
        assert int(size) == study.BAG_SIZE
        return int(steps.removesuffix("steps"))

    with_it, after_it, later = (
        runs[f"stack-8L-at{at}-bags{bags}-seed1"] for at, bags in ((25, 25), (25, 50), (50, 50))
    )
    assert bags_of(with_it) == with_it.first
    # The same steps in the control, whose checkpoint it starts from.
    assert bags_of(with_it.before) == with_it.first
    assert with_it.before.name == "control-2L-bags25-seed1"
    flops_after = (bags_of(after_it) - after_it.first) * study.LARGE.flops_a_step
    assert flops_after == pytest.approx(study.BUDGET / 4, rel=2e-3)
    assert bags_of(later) == later.first
    for run in (after_it, later):
        own = run.before
        assert own.only_before
        # One schedule, and so one text, over both.
        assert bags_of(own) == bags_of(run)
        cell = own.cell(asked.kept.folder)
        assert value(cell, "train-iters") == value(run.cell(asked.kept.folder), "train-iters")
        assert cell.num_steps == run.first == int(value(cell, "exit-after-step"))
        # It ends with an evaluation, by which it is known to be done.
        assert int(value(cell, "eval-interval")) == cell.num_steps


def test_what_is_kept_is_not_trained_again(
    study: ModuleType, asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = asked.cells(asked.kept.folder)
    gone = {"control-2L-seed1", "stack-8L-at25-seed1"}
    for name in gone:
        asked.kept.path(name).touch()
    left = {cell.name for cell in asked.cells(asked.kept.folder)}
    # Of rates nothing is asked once they are chosen; they are listed until they are kept.
    assert left == {cell.name for cell in every} - gone


def test_upcycling_comes_after_growth(asked: Any) -> None:
    runs = [run for run in asked.runs() if run.part != "rate"]
    first = next(at for at, run in enumerate(runs) if run.model.num_layers == 4)
    # What the issue of growth is comes before, and what it could have been decided by after.
    assert {run.part for run in runs[:first]} == {"control", "stack", "zero"}
    assert not any(run.bags or "own-rate" in run.name for run in runs[:first])
    runs = [run for run in asked.runs() if run.model.num_layers == 4]
    wanted = {"control-4L-seed1", "control-4L-8x-seed3", "upcycle-4L-8x-at50-seed2"}
    assert wanted | {"drop0.5-4L-8x-at25-seed1"} <= set(names(runs))
    (drop,) = [run for run in runs if run.name == "drop0.5-4L-8x-at25-seed1"]
    cell = drop.cell(asked.kept.folder)
    assert cell.start.cell.name == "control-4L-seed1"
    assert cell.start.flag == "upcycle-from"
    assert value(cell, "upcycle-drop") == "0.5"
    assert value(cell, "num-experts") == "8"
