"""A gain in steps: how many more of them a known baseline needs to end so."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_runs import made_ledger
from surfaces import SEARCH

from tst_megatron.analysis.compare.by_scaling_law import ScalingLaw
from tst_megatron.analysis.scaling.law import Law
from tst_megatron.analysis.scaling.law_file import LawRecord, LawRun
from tst_megatron.methods.superposition.axes import BASELINE, Pair
from tst_megatron.runs.outcomes import Outcome
from tst_megatron.statistics.interval import Interval
from tst_megatron.sweep.by_law import worth_of
from tst_megatron.sweep.report import Found, write_report

SIZE, STEPS, POSITIONS_A_STEP = 5e5, 100, 4 * 128
LAW = Law(1.0, 60.0, 0.33, 30.0, 0.25)
GAIN, WIDTH = 0.08, 0.02
NOTE = "The runs read text again."


def scaling_law(**more: object) -> ScalingLaw:
    """Of draws that know all but how fast the loss falls."""
    rng = np.random.default_rng(1)
    ones, slopes = np.ones(400), 0.25 + 0.005 * rng.standard_normal(400)
    laws = Law(ones, 60 * ones, 0.33 * ones, 30.0 * 5e4 ** (slopes - 0.25), slopes)
    runs = tuple(
        LawRun(f"{n:g}-{d:g}", "baseline", n, d, float(LAW.loss(n, d)), d)
        for n in (1e5, 2e6)
        for d in (1e4, 1e6)
    )
    return ScalingLaw("law.json", LawRecord(LAW, laws, runs, "total", {}, (NOTE,), **more))


def baseline(folder: Path, loss: float | None = None, size: float = SIZE) -> Path:
    ended = float(LAW.loss(SIZE, STEPS * POSITIONS_A_STEP)) if loss is None else loss
    header = {"parameters": {"total": size}, "tokenizer": {"sha256": "ours"}}
    return made_ledger(folder, "baseline", header, losses={STEPS: ended})


def ratio(law: Law, gain: float) -> float:
    """By bisection on the law itself."""
    d = STEPS * POSITIONS_A_STEP
    low, high = 0.0, 20.0
    for _ in range(80):
        middle = (low + high) / 2
        above = law.loss(SIZE, d * np.exp(middle)) > law.loss(SIZE, d) - gain
        low, high = (middle, high) if above else (low, middle)
    return float(np.exp(low))


def test_a_gain_is_told_in_steps(tmp_path: Path) -> None:
    gain = Interval(GAIN, GAIN - WIDTH, GAIN + WIDTH)
    found = worth_of(gain, scaling_law(), baseline(tmp_path))
    assert found.step_ratio.value == pytest.approx(ratio(LAW, GAIN), rel=1e-9)
    # The law's draws widen the gain's ends further.
    assert 1 < found.step_ratio.low < ratio(LAW, GAIN - WIDTH)
    assert found.step_ratio.high > ratio(LAW, GAIN + WIDTH)
    said, note = found.sentences
    assert f"needs {found.step_ratio.value:.2f}× these steps" in said
    assert NOTE in note


def test_a_gain_that_no_baseline_has(tmp_path: Path) -> None:
    found = worth_of(Interval(9.0, 8.0, 10.0), scaling_law(), baseline(tmp_path))
    assert found.step_ratio.high is None
    assert "no baseline of this size ever ends so" in found.sentences[0]


@pytest.mark.parametrize(
    ("text", "run", "said"),
    [
        ({}, {"size": 1e8}, "has N 1e+08"),
        ({}, {"loss": 9.0}, "is of another text or of other models"),
        ({"tokenizer": {"sha256": "theirs"}}, {}, "differ in the tokenizer (sha256: theirs and"),
    ],
)
def test_a_law_of_other_runs_tells_nothing_and_costs_no_report(tmp_path, text, run, said) -> None:
    found = worth_of(Interval(GAIN), scaling_law(text=text), baseline(tmp_path, **run))
    assert found.step_ratio.value is None
    assert said in found.sentences[0]


def test_the_report_has_it(tmp_path: Path) -> None:
    ran = tuple(
        Outcome(choice, seed, loss + 0.001 * seed)
        for seed in (1, 2)
        for choice, loss in ((BASELINE, 3.0), (Pair(4, 0.3), 3.0 - GAIN))
    )
    found = Found(SEARCH, "r", STEPS, ran, len(ran))
    assert "step_ratio_by_law" not in write_report(tmp_path, found)["recommendation"]
    told = replace(found, law=scaling_law(), baseline=baseline(tmp_path))
    report = write_report(tmp_path / "report", told)
    told_ratio = report["recommendation"]["step_ratio_by_law"]["value"]
    assert told_ratio == pytest.approx(ratio(LAW, GAIN), rel=1e-6)
    assert "By the law in law.json the baseline needs" in report["notes"][0]
    assert "law.json" in (tmp_path / "report" / "report.html").read_text()
