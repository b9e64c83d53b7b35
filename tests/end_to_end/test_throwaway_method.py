"""A method of somebody else's package, found by its entry point, is in all that ours are in.

The method is `tests/throwaway`: one folder, and no file of ours knows it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from trainer import REPOSITORY, TINY, Job, Result, lines, run, run_all

INSTALLED = os.pathsep.join((str(REPOSITORY / "tests/throwaway"), str(REPOSITORY)))
ENVIRONMENT = {"PYTHONPATH": INSTALLED}
SCALED = ("--throwaway-scale=0.5",)
BAGS = ("--tst-bag-size=2", "--tst-step-ratio=0.3")
SETTINGS = {"scale": 0.5, "share": 0.5}


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """A command of ours where the package is installed."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tst_megatron", *words],
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory) -> dict[str, Result]:
    """Ordinary, with the method, with the method doing nothing, and with bags besides."""
    folder = tmp_path_factory.mktemp("runs")
    flags = {
        "ordinary": (),
        "scaled": (*SCALED, f"--save={folder / 'scaled'}", "--save-interval=5"),
        "by one": ("--throwaway-scale=1",),
        "in bags": (*SCALED, *BAGS),
    }
    jobs = [
        Job(folder / name, (*TINY, *corpus.flags, *own), environment=ENVIRONMENT)
        for name, own in flags.items()
    ]
    return dict(zip(flags, run_all(jobs), strict=True))


def test_the_rate_is_scaled_where_it_should_be(runs) -> None:
    ordinary, scaled, by_one = (
        [line["loss"] for line in lines(runs[name], "step")]
        for name in ("ordinary", "scaled", "by one")
    )
    # A step's loss is of the weights before it.
    assert scaled[0] == ordinary[0]
    assert all(one != other for one, other in zip(ordinary[2:], scaled[2:], strict=True))
    assert by_one == ordinary


def test_the_ledger_has_its_settings_stages_and_facts(runs) -> None:
    (header,) = lines(runs["scaled"], "header")
    (method,) = header["methods"]
    assert (method["name"], method["facts"]) == ("throwaway", SETTINGS)
    assert [(stage["name"], stage["samples"]) for stage in method["stages"]] == [
        ("rates times 0.5", 20),
        ("single tokens", 20),
    ]
    assert [line["facts"] for line in lines(runs["scaled"], "step")] == [
        *([{"rate_scale": 0.5}] * 5),
        *([{"rate_scale": 1.0}] * 5),
    ]
    # Megatron validates once more at the end.
    decided = [line["facts"]["rate_scale"] for line in lines(runs["scaled"], "validation")]
    assert decided == [0.5, 1.0, 1.0]
    assert lines(runs["ordinary"], "header")[0]["methods"] == []


def test_it_goes_with_bags(runs) -> None:
    (header,) = lines(runs["in bags"], "header")
    assert [method["name"] for method in header["methods"]] == ["superposition", "throwaway"]
    steps = lines(runs["in bags"], "step")
    assert [(line["facts"]["bag_size"], line["facts"]["rate_scale"]) for line in steps] == [
        *([(2, 0.5)] * 3),
        *([(1, 0.5)] * 2),
        *([(1, 1.0)] * 5),
    ]
    assert [line["stage"] for line in steps] == [0, 0, 0, 1, 1, 2, 2, 2, 2, 2]


def test_a_resume_with_another_scale_is_refused(runs, corpus, tmp_path: Path) -> None:
    folder = runs["scaled"].ledger_file.parent
    flags = (*TINY, *corpus.flags, "--throwaway-scale=0.25", f"--load={folder}")
    result = run(Job(tmp_path, flags, environment=ENVIRONMENT), check=False)
    assert result.code == 2
    assert "the same --throwaway- flags, or --allow-schedule-change" in result.output


def test_a_wrong_flag_is_one_sentence(corpus, tmp_path: Path) -> None:
    flags = (*TINY, *corpus.flags, *SCALED, "--throwaway-share=2")
    result = run(Job(tmp_path, flags, environment=ENVIRONMENT), check=False)
    assert result.code == 2
    assert "tst-megatron: error: --throwaway-share 2 is no share" in result.output


def test_its_flags_are_in_the_help_and_in_recipes(tmp_path: Path) -> None:
    shown = command("pretrain", "--help").stdout
    assert "\nthrowaway:\n  Another rate in the first part of a run." in shown
    assert "--throwaway-scale X" in shown
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("extends: tiny-baseline\nthrowaway-scale: 0.5\nallow-repeats: true\n")
    printed = command("recipe", "flags", str(recipe))
    assert "--throwaway-scale 0.5 --allow-repeats" in printed.stdout
    assert not printed.stderr


def test_a_plan_has_its_stages() -> None:
    flags = ("plan", "--gpus=1", "--recipe=tiny-baseline", "--vocab-size=384", *SCALED)
    planned = command(*flags, "--json")
    assert planned.returncode == 0, planned.stderr
    steps = json.loads(planned.stdout)["per_step"]
    assert [(one["steps"], one["rate_scale"]) for one in steps] == [(7000, 0.5), (7000, 1.0)]
    shown = [line.split() for line in command(*flags, *BAGS).stdout.splitlines()]
    for row in ("bags of 2, rates times 0.5 4,200", "rates times 0.5 2,800", "ordinary 7,000"):
        assert any(line[: len(row.split())] == row.split() for line in shown), row


def test_a_comparison_tells_of_it(runs) -> None:
    baseline, candidate = (str(runs[name].ledger_file) for name in ("ordinary", "scaled"))
    compared = command("compare", baseline, "--with", candidate, "--text")
    assert compared.returncode == 0, compared.stderr
    assert "rates times 0.5 for 50 % against baseline" in compared.stdout


def test_it_reads_its_text_as_any_run_does(corpus, tmp_path: Path) -> None:
    """No text, and text read twice, are Megatron's business where the method demands none."""
    flags = (*TINY, *SCALED, f"--tokenizer-model={corpus.tokenizer}")
    mock = run(Job(tmp_path, (*flags, "--mock-data"), environment=ENVIRONMENT))
    assert [line["facts"] for line in mock.ledger.steps[:1]] == [{"rate_scale": 0.5}]
