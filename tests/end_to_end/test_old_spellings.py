"""Old spellings of flags mean the new ones in every command, which say so in one line."""

from pathlib import Path

import pytest
from trainer import TINY, Job, Result, run


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Of the user's, from before."""
    written = tmp_path / "mine.yaml"
    written.write_text(
        "extends: tiny-baseline\ntst-allow-repeats: true\ntst_fixed_validation: true\n"
    )
    return written


def command(out: Path, *words: str) -> Result:
    """A command in a process of its own; ``--ledger`` follows the words."""
    verb = words[: 2 if words[0] in ("index", "recipe") else 1]
    program = ("-m", "tst_megatron", *verb)
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    flags = words[len(verb) :]
    return run(Job(out, flags, 1, program, alone | address, torchrun=False), check=False)


def warnings(result: Result) -> list[str]:
    return [line for line in result.output.splitlines() if "tst-megatron: warning" in line]


def sentence(result: Result) -> str:
    """Why a command was refused."""
    assert result.code == 2, result.output
    (line,) = (one for one in result.output.splitlines() if "tst-megatron: error" in one)
    return line


def test_pretrain_refuses_in_the_new_spelling(corpus, tmp_path: Path) -> None:
    flags = (*TINY, *corpus.flags, "--tst-compare-with", f"{tmp_path}/no", "--tst-allow-repeats")
    result = command(tmp_path / "out", "pretrain", *flags)
    assert f"error: --compare-with: {tmp_path}/no is not there" in sentence(result)
    (line,) = warnings(result)
    assert "--tst-allow-repeats is now --allow-repeats" in line
    assert "--tst-compare-with is now --compare-with" in line


def test_pretrain_refuses_both_spellings(corpus, tmp_path: Path) -> None:
    # The helper gives the new one.
    result = command(tmp_path / "out", "pretrain", *TINY, *corpus.flags, "--tst-ledger=x")
    assert "--tst-ledger and --ledger, two spellings" in sentence(result)


def test_pretrain_says_once_what_a_recipe_has(corpus, recipe: Path, tmp_path: Path) -> None:
    flags = (*TINY, *corpus.flags, f"--recipe={recipe}", "--padded-vocab-size=9")
    result = command(tmp_path / "out", "pretrain", *flags)
    assert "--padded-vocab-size 9 is below" in sentence(result)
    (line,) = warnings(result)
    assert f"{recipe} has old spellings" in line
    assert "tst-allow-repeats is now allow-repeats" in line


def test_index_budget_allows_repeats_in_either(corpus, recipe: Path, tmp_path: Path) -> None:
    flags = ("--train-iters=100000", "--eval-iters=0", *corpus.flags)
    shape = [flag for flag in TINY if flag.startswith(("--seq-length", "--global-batch-size"))]
    for allowed in ("--tst-allow-repeats", f"--recipe={recipe}"):
        words = (allowed, *shape, *flags)
        result = command(tmp_path / "out", "index", "budget", *words)
        assert result.code == 0, result.output
        assert "Text is repeated, as --allow-repeats allows." in result.output
        assert len(warnings(result)) == 1


_GRID = ("--recipe=tiny-baseline", "--bag-sizes=2", "--step-ratios=0.2")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("plan", "--recipe=tiny", "--tst-fixed-validation", "--no-such"), "--no-such is no flag"),
        (("demo", "--steps=0", "--tst-fixed-validation"), "--steps 0 is below 1"),
        # The helper gives the new one.
        (("sweep", *_GRID, "--tst-allow-repeats"), "--ledger is the sweep's to set"),
    ],
    ids=["plan", "demo", "sweep"],
)
def test_what_starts_runs_takes_the_old_spelling(words, says: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = command(out, *words, *([f"--out={out}"] if words[0] != "plan" else []))
    assert says in sentence(result)
    assert len(warnings(result)) == 1


def test_recipe_show_knows_the_new_one_alone(recipe: Path, tmp_path: Path) -> None:
    words = ("recipe", "show", str(recipe), "--tst-ledger-fsync-interval=3")
    result = command(tmp_path / "out", *words)
    assert len(warnings(result)) == 2  # Of the recipe, and of the command line.
    shown = [line for line in result.output.splitlines() if line not in warnings(result)]
    for flag in ("--ledger-fsync-interval", "--allow-repeats", "--fixed-validation"):
        assert any(line.split()[:1] == [flag] for line in shown), result.output
    assert not any("--tst-" in line for line in shown)
