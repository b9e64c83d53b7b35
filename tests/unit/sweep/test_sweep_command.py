"""The subcommand: a table reported on, and what is refused before anything starts."""

import argparse
import json
import re
from pathlib import Path

import pytest
from surfaces import SEARCH, TABLE, grid

from tst_megatron.errors import UserError
from tst_megatron.sweep import command

GRID = ("--recipe", "tiny-baseline", "--bag-sizes", "2", "4", "--step-ratios", "0.2")


def _run(*words: str) -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    command.add_arguments(parser)
    args, others = parser.parse_known_args(words)
    return command.main(args, others)


def test_a_table_is_reported_on(tmp_path: Path, capsys) -> None:
    code = _run("--from-csv", str(TABLE), "--out", str(tmp_path), "--tokens-available", "80e9")
    assert code == 0
    report = json.loads((tmp_path / "report.json").read_text())
    recommended = report["recommendation"]
    positions = 20_000 * 1024 * 2048
    factor = 1 + recommended["step_ratio"] * (recommended["bag_size"] - 1)
    assert positions * factor <= 80e9 == report["tokens_available"]
    assert report["headline"] in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "a sweep needs --recipe"),
        (("--recipe", "tiny"), "a sweep needs --bag-sizes"),
        (("--recipe", "tiny", "--bag-sizes", "4"), "a sweep needs --step-ratios"),
        ((*GRID[:3], "--step-ratios", "0.2"), "--bag-sizes is empty"),
        ((*GRID, "--jobs", "0"), "--jobs 0 is below 1"),
        ((*GRID, "--nproc-per-node", "0"), "--nproc-per-node 0 is below 1"),
        ((*GRID, "--budget-hours", "0"), "--budget-hours 0 has to be above 0"),
        ((*GRID, "--tokens-available", "nan"), "--tokens-available nan has to be above 0"),
        ((*GRID, "--seeds", "1", "--seed", "2"), "--seeds and --seed both set the seeds"),
        ((*GRID, "--seeds"), "--seeds is empty"),
        ((*GRID, "--learning-rates"), "--learning-rates is empty"),
        ((*GRID, "--learning-rates", "0"), "--learning-rates 0 has to be above 0"),
        ((*GRID, "--learning-rates", "-.001"), "--learning-rates -.001 has to be above 0"),
        ((*GRID, "--learning-rates", "-1e-3"), "-1e-3 belongs to no flag"),
        ((*GRID, "--learning-rates", "nan"), "--learning-rates nan has to be above 0"),
        ((*GRID, "--learning-rates", "fast"), "--learning-rates fast is no number"),
        ((*GRID, "--learning-rates", "1e-3,.001"), "--learning-rates names 0.001 twice"),
        (
            (*GRID, "--learning-rates", "1e-3", "--lr", "1"),
            "--learning-rates and --lr both set the learning rate",
        ),
        (
            ("--from-csv", "x.csv", "--learning-rates", "1e-3"),
            "--from-csv runs nothing, so it takes no --learning-rates",
        ),
        ((*GRID, "--step-ratios", "1.5"), "--step-ratios 1.5 is not between 0 and 1"),
        (GRID, "there is no training data"),
        ((*GRID, "--data-path", "nowhere"), "the corpus nowhere is missing"),
        ((*GRID, "--train-iters", "2"), "no step of 2 to the superposition phase"),
        ((*GRID, "--scaling", "no.json"), "no.json cannot be read"),
        (("--from-csv", "x.csv", "--scaling", "y"), "--from-csv runs nothing, so it takes no"),
        (("--from-csv", "x.csv", "--halving"), "--from-csv runs nothing, so it takes no --halving"),
        (("--from-csv", "x.csv", "--lr", "1"), "--from-csv runs nothing, so it takes no --lr"),
        (("--from-csv", "x.csv", *GRID), "--from-csv runs nothing, so it takes no --recipe"),
        (("--from-csv", "nowhere.csv"), "--from-csv nowhere.csv cannot be read"),
        (("--from-csv", str(TABLE), "--out", "/dev/null/x"), "--out /dev/null/x cannot be written"),
    ],
)
def test_it_is_refused_before_anything_starts(tmp_path, monkeypatch, words, says: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(says)):
        _run(*words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("--tst-objective=mce-alt", "--tst-bag-weights=power"),
            "--tst-objective mce-alt takes no weights",
        ),
        (("--reset-attention-mask",), "--reset-attention-mask does not go with"),
        (
            ("--tst-logits-chunk-size=8", "--use-torch-fsdp2"),
            "--use-torch-fsdp2 does not go with --tst-logits-chunk-size",
        ),
        (
            ("--halving", "--tokens-available=1e5"),
            "--tokens-available 100000 is too little text for every pair",
        ),
        (("--halving", "--train-iters=4"), "no step of 2 to the superposition phase"),
    ],
)
def test_what_superposed_runs_would_refuse_is_refused_before_the_baseline(
    corpus, tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    given = (*GRID, *corpus.flags, "--split=900,100,0", "--train-iters=200")
    with pytest.raises(UserError, match=re.escape(says)):
        _run(*given, *words, "--out", str(tmp_path / "out"))
    assert not list(tmp_path.iterdir())


def test_a_table_does_not_take_the_place_of_a_sweeps_report(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert _run("--from-csv", str(TABLE)) == 0
    assert (tmp_path / "runs" / f"sweep-{TABLE.stem}" / "report.json").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "sweep.json").write_text("{}")
    with pytest.raises(UserError, match="mine holds a sweep with a report of its own"):
        _run("--from-csv", str(TABLE), "--out", "mine")


@pytest.mark.parametrize(("read", "fits"), [(1000, True), (1900, False)])
def test_runs_that_read_single_tokens_need_no_more_text(tmp_path: Path, read, fits: bool) -> None:
    table = tmp_path / "table.csv"
    rows = ("bag_size,step_ratio,loss,data_tokens", "1,0,3.2,1000", f"4,0.3,3.1,{read}")
    table.write_text("\n".join(rows) + "\n")
    flags = ("--from-csv", str(table), "--tokens-available", "1300", "--out", str(tmp_path))
    assert _run(*flags) == 0
    _, cell = json.loads((tmp_path / "report.json").read_text())["cells"]
    assert cell["fits_tokens_available"] is fits


def test_tokens_available_needs_to_know_what_was_read(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("bag_size,step_ratio,loss\n1,0,3.2\n4,0.3,3.1\n")
    with pytest.raises(UserError, match="add a column data_tokens"):
        _run("--from-csv", str(table), "--tokens-available", "1e9", "--out", str(tmp_path / "o"))


def test_text_that_is_read_twice_is_refused_and_allowed(corpus, tmp_path: Path) -> None:
    from tst_megatron.methods.superposition.axes import BASELINE, Pair
    from tst_megatron.sweep.settings import settings_from_flags, text_of_choices

    choices = grid((2, 16), (0.3, 0.5)).choices
    positions = 4 * 128
    steps = corpus.num_tokens // positions // 2
    data = (*corpus.flags, "--split=900,100,0")
    given = (*data, f"--train-iters={steps}")
    few = settings_from_flags(SEARCH, "tiny-baseline", (*data, "--train-iters=20"))
    texts = text_of_choices(few, choices, 1)
    assert texts[BASELINE].data_tokens == 20 * positions
    assert texts[Pair(16, 0.5)].data_tokens == 10 * positions * 17
    assert not any(text.repeats for text in texts.values())
    with pytest.raises(UserError, match=r"2 of the 4 cells would read .* s = 16"):
        text_of_choices(settings_from_flags(SEARCH, "tiny-baseline", given), choices, 1)
    allowed = settings_from_flags(SEARCH, "tiny-baseline", (*given, "--allow-repeats"))
    texts = text_of_choices(allowed, choices, 1)
    assert texts[Pair(16, 0.3)].repeats
    assert texts[Pair(16, 0.5)].epochs > 2
    assert not texts[Pair(2, 0.3)].repeats
