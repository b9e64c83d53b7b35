import argparse
from pathlib import Path

import pytest
from megatron.training.arguments import add_megatron_arguments

from tst_megatron import old_flags, recipes
from tst_megatron.corpora.blend import load_blend
from tst_megatron.errors import UserError
from tst_megatron.methods import registry
from tst_megatron.old_flags import NEW_NAMES, with_new_names


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    old_flags._print_once.cache_clear()
    monkeypatch.delenv("RANK", raising=False)


def test_a_command_line_is_rewritten_and_the_rest_of_it_left_alone(capsys) -> None:
    words = ["--tst-blend", "a.yaml", "--tst-ledger=--tst-blend", "--tst-bag-size", "4", "x=1"]
    assert with_new_names([*words, "--lr=tst-ledger"]) == [
        *("--blend", "a.yaml", "--ledger=--tst-blend", "--tst-bag-size", "4", "x=1"),
        "--lr=tst-ledger",
    ]
    (line,) = capsys.readouterr().err.splitlines()
    assert "--tst-blend is now --blend, --tst-ledger is now --ledger" in line
    assert with_new_names(["--blend", "a.yaml", "--tst-schedule=4:0.1"])[0] == "--blend"
    assert not capsys.readouterr().err


def test_every_old_flag_is_a_new_one_of_any_run() -> None:
    parser = registry.add_arguments(argparse.ArgumentParser())
    for old, new in NEW_NAMES.items():
        assert f"--{new}" in parser._option_string_actions
        assert f"--{old}" not in parser._option_string_actions
        assert with_new_names([f"--{old}"]) == [f"--{new}"]


def test_megatron_has_no_flag_of_ours() -> None:
    """Should it get one, ours has to give way: both would stand in one parser."""
    ours = registry.add_arguments(argparse.ArgumentParser(add_help=False))
    megatrons = add_megatron_arguments(argparse.ArgumentParser(add_help=False))
    assert not ours._option_string_actions.keys() & megatrons._option_string_actions.keys()
    assert not {a.dest for a in ours._actions} & {a.dest for a in megatrons._actions}


def test_both_spellings_are_refused() -> None:
    with pytest.raises(UserError, match=r"--tst-ledger and --ledger, two .*: leave --tst-ledger"):
        with_new_names(["--ledger=a", "--tst-ledger", "b"])


def test_other_ranks_say_nothing(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert with_new_names(["--tst-allow-repeats"]) == ["--allow-repeats"]
    assert not capsys.readouterr().err


def test_a_recipe_may_have_the_old_spelling_anywhere(capsys, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "extends: tiny\n"
        "tst-blend: {sources: [{path: /web}]}\n"
        "layouts: {2xcpu: {tst-ledger: a}}\n"
        "precisions: {high: {tst_ledger-fsync-interval: 3}}\n"
    )
    values = recipes.load(f"{recipe}+2xcpu+high")
    assert (values["ledger"], values["ledger-fsync-interval"]) == ("a", 3)
    assert values["blend"] == str(recipe)
    assert load_blend(values["blend"]).flags == ["--data-path", "/web"]
    # What the command line has takes the place of another form of it.
    words = recipes.expand_recipe([f"--recipe={recipe}", "--data-path", "x"])
    assert "--blend" not in words
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(
        f"the recipe {recipe} has old spellings of flags, which go on working: tst-blend is now "
        "blend, tst-ledger is now ledger, tst-ledger-fsync-interval is now ledger-fsync-interval"
    )


def test_a_recipe_with_both_spellings_is_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("ledger: a\ntst-ledger: b\n")
    with pytest.raises(UserError, match=r"mine\.yaml has ledger and tst-ledger, two spellings"):
        recipes.load(str(recipe))
    # A parent may have the one and its child the other.
    recipe.write_text("tst-ledger: b\n")
    child = tmp_path / "child.yaml"
    child.write_text("extends: mine.yaml\nledger: c\n")
    assert recipes.load(str(child)) == {"ledger": "c"}
