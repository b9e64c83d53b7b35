"""Which runs the scaling study asks for, by what those before came to."""

import gzip
import importlib
import importlib.util
import json
import math
import sys
from pathlib import Path
from statistics import fmean, stdev
from types import ModuleType
from typing import Any

import pytest

from tst_megatron.experiments.kept import Kept

STUDY = Path(__file__).parents[3] / "examples/scaling-study/study.py"


@pytest.fixture(scope="module")
def study() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scaling_study", STUDY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look their module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_rates_come_first_and_go_on_while_the_best_is_at_an_edge(
    study: ModuleType, tmp_path: Path
) -> None:
    asked = study.Study(Kept(tmp_path))
    size = study.SIZES[0]
    # Nothing is known: only what chooses rates, of the small sizes first.
    assert {run.part for run in asked.runs()} == {"rate"}
    assert [run.size.name for run in asked.runs()][:8] == ["51k"] * 8

    def came_to(side: str, losses: list[float]) -> None:
        runs = sorted(asked.rate_runs(size, side), key=lambda run: run.rate)
        asked.losses |= {run.name: loss for run, loss in zip(runs, losses, strict=True)}

    came_to("baseline", [2.3, 2.2, 2.1, 2.0])
    further = asked.rate_runs(size, "baseline")
    assert [run.rate for run in further] == [1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2]
    assert asked.rate(size, "baseline") is None
    # A parabola in the logarithm, its lowest point at 8e-3; a run that diverged is at no edge.
    came_to("baseline", [2.3, 2.2, 2.1, 2.0, math.inf])
    asked.losses[further[2].name], asked.losses[further[3].name] = 2.05, 2.0
    assert asked.rate(size, "baseline") is not None
    grid = [run for run in asked.runs() if run.part == "grid"]
    assert {run.side for run in grid} == {"baseline"}
    came_to("bags", [2.2, 2.1, 2.2, 2.3])
    grid = [run for run in asked.runs() if run.part == "grid"]
    assert {run.side for run in grid} == {"baseline", "bags"}
    assert {run.size.name for run in grid} == {"51k"}
    # Once chosen it stays, whatever else comes.
    chosen = json.loads(asked.rates_file.read_text())
    asked.losses.clear()
    assert asked.rate(size, "baseline") == chosen["51k baseline"]


def test_every_run_has_a_name_and_flags_of_its_own(study: ModuleType, tmp_path: Path) -> None:
    asked = study.Study(Kept(tmp_path))
    rates = {f"{size.name} {side}": 1e-3 for size in study.SIZES for side in study.SIDES}
    tmp_path.mkdir(exist_ok=True)
    asked.rates_file.write_text(json.dumps(rates))
    runs = list(dict.fromkeys(asked.runs()))
    assert len({run.name for run in runs}) == len(runs)
    cells = [run.cell(tmp_path) for run in runs]
    assert len({cell.flags for cell in cells}) == len(cells)
    # Five sizes, three lengths to 525k, two sides, three seeds, two of the largest.
    grid = [run for run in runs if run.part == "grid"]
    assert len(grid) == 2 * (3 * 3 * 3 + 2 * 3 + 2 * 2)
    (bags,) = [run for run in grid if run.name == "grid-51k-bags-3500-seed1"]
    assert "--tst-step-ratio=0.3" in bags.cell(tmp_path).flags
    assert not any(flag.startswith("--tst-") for flag in cells[0].flags)


def test_a_report_of_what_is_done_so_far(
    study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three sizes and lengths of a known law, one seed short of the study's three."""
    ledgers = tmp_path / "ledgers"
    ledgers.mkdir()
    rates = {f"{size.name} {side}": 1e-3 for size in study.SMALL for side in study.SIDES}
    (ledgers / "rates.json").write_text(json.dumps(rates))
    for run in a_grid(study):
        keep(ledgers, run)
    for rate, loss in ((1e-3, 3.2), (2e-3, 3.0), (4e-3, 3.1)):
        keep(ledgers, study.Run("rate", study.SIZES[0], "baseline", rate, 7000, 4), loss)
    monkeypatch.syspath_prepend(str(STUDY.parent))
    report = importlib.import_module("report")
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["report", "--ledgers", str(ledgers), "--out", str(out)])
    assert report.main() == 0
    found = json.loads((out / "results.json").read_text())
    assert found["rates"][0]["losses"] == {"0.001": 3.2, "0.002": 3.0, "0.004": 3.1}
    assert len(found["cells"]) == 9
    (cell,) = [one for one in found["cells"] if (one["size"], one["steps"]) == ("156k", 14_000)]
    # Bags are worth twice their steps in the law, between baselines of 14,000 and 56,000.
    assert cell["step_ratio"]["value"] == pytest.approx(WORTH, rel=0.05)
    assert found["laws"]["constant"]["m, bags of 4 for 30 %"]["value"] == pytest.approx(
        WORTH, rel=0.02
    )
    assert any("map of 156k" in one for one in found["missing"])
    assert not found["laws"]["constant"]["refused"]
    # Of one law with one m what bags gain falls with the length, as all losses come together.
    mean, _, length = found["trends"]
    assert mean["mean"]["value"] < 0 < length["mean"]["value"]
    for name in ("report.html", "study.png", "law.json"):
        assert (out / name).stat().st_size


def test_trends_are_the_seeds_planes(study: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(STUDY.parent))
    trends = importlib.import_module("trends")
    slopes = {1: (-0.05, -0.02, 0.01), 2: (-0.03, -0.01, 0.00), 3: (-0.04, -0.03, 0.02)}
    places = [(n, d) for n in (5e4, 2e5, 8e5) for d in (1e3, 4e3, 16e3)]

    def plane(coefficients: tuple[float, ...], n: float, d: float) -> float:
        mean, of_size, of_length = coefficients
        return mean + of_size * math.log2(n / 2e5) + of_length * math.log2(d / 4e3)

    given = {seed: {p: plane(one, *p) for p in places} for seed, one in slopes.items()}
    given[1][(1e6, 1e3)] = 9.0  # Of one seed alone.
    found, counted = trends.trends(given)
    assert counted == places
    for row, one in enumerate(found):
        values = [slopes[seed][row] for seed in (1, 2, 3)]
        assert list(one.of_seeds.values()) == pytest.approx(values, abs=1e-12)
        mean, sd = fmean(values), stdev(values)
        # Student's t of two degrees of freedom.
        assert one.mean.value == pytest.approx(mean)
        assert one.mean.high - mean == pytest.approx(4.30265 * sd / math.sqrt(3), rel=1e-5)
    line = {seed: {(n, 1e3): 0.0 for n in (1e5, 2e5, 4e5)} for seed in (1, 2)}
    assert trends.trends(line) == ([], [])


WORTH = 2.0


def a_grid(study: ModuleType) -> list[Any]:
    lengths = (study.SHORT, study.MIDDLE, study.LONG)
    return [
        study.Run("grid", size, side, 1e-3, steps, seed)
        for size in study.SMALL
        for steps in lengths
        for side in study.SIDES
        for seed in (1, 2)
    ]


def keep(ledgers: Path, run: Any, loss: float | None = None) -> None:
    """A ledger of a run that ended as the law has it, a little higher for the second seed."""
    sizes = {"51k": 51_360, "156k": 156_000, "525k": 525_000}
    size, steps = sizes[run.size.name], run.steps
    positions = steps * 512 * (WORTH if run.side == "bags" else 1)
    if loss is None:
        loss = (1 + 60 * size**-0.33 + 300 * positions**-0.36) * (1 + 0.01 * (run.seed == 2))
    stages = [[4, 4 * int(0.3 * steps)]] if run.side == "bags" else None
    progress = {"step": steps, "positions": steps * 512, "data_tokens": steps * 512}
    progress |= {"flops": 6.0 * size * 512 * steps, "wall_clock_s": 1.0 * steps}
    header = {
        "kind": "header",
        "schema_version": 1,
        "run_id": run.name,
        "step": 0,
        "seed": run.seed,
        "parameters": {"total": size, "active": size},
        "superposition": None if stages is None else {"stages": stages},
        "flags": {
            "global_batch_size": 4, "seq_length": 128, "train_iters": steps, "lr": run.rate,
            "lr_decay_style": "WSD", "lr_wsd_decay_iters": steps // 10, "num_layers": 2,
            "hidden_size": run.size.hidden_size, "num_experts": None,
        },
    }  # fmt: skip
    step = {"kind": "step", **progress, "bag_size": 1, "loss_name": "lm loss", "loss": loss}
    validation = {"kind": "validation", **progress, "next_token_loss": loss}
    lines = [json.dumps(line) for line in (header, step, validation)]
    path = ledgers / f"{run.name}.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode() + b"\n"))
