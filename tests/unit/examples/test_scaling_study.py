"""Which runs the scaling study asks for, by what those before came to."""

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType

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
