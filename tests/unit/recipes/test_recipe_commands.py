import argparse
import subprocess
import sys
from pathlib import Path

import pytest
from megatron.training.arguments import add_megatron_arguments

from tst_megatron import recipes
from tst_megatron.errors import UserError
from tst_megatron.recipes import command

REPOSITORY = __file__.rpartition("/tests/")[0]


def run(*words: str) -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    command.add_arguments(parser)
    command.main(parser.parse_args(words))


def rows(output: str) -> dict[str, list[str]]:
    """Lines of a table by their first word."""
    return {line.split()[0]: line.split() for line in output.splitlines() if line.strip()}


def test_list_names_every_recipe_layout_and_precision(capsys) -> None:
    run("list")
    listed = rows(capsys.readouterr().out)
    for name in recipes.names():
        recipe = recipes.read(name)
        assert {f"{layout}," for layout in recipe.layouts} <= {
            word.rstrip(",") + "," for word in listed[name]
        }
        assert recipe.precisions.keys() <= listed.keys()


def test_quick_commands_do_without_megatron() -> None:
    code = (
        "import argparse, sys\n"
        "from tst_megatron.recipes import command\n"
        "parser = argparse.ArgumentParser()\n"
        "command.add_arguments(parser)\n"
        "for words in ('list', 'diff tiny tiny-tst', 'flags tiny', 'show tiny-tst --lr 1'):\n"
        "    command.main(parser.parse_args(words.split()))\n"
        "assert not {'torch', 'megatron'} & sys.modules.keys()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_diff_shows_what_differs_and_nothing_else(capsys) -> None:
    run("diff", "moe-10b-a1b-baseline", "moe-10b-a1b-tst+8xb200")
    found = rows(capsys.readouterr().out)
    assert {key: values[1:] for key, values in found.items() if key.startswith("--")} == {
        "--train-iters": ["125000", "49983"],
        "--lr-wsd-decay-iters": ["12500", "4998"],
        "--tst-bag-size": ["–", "16"],
        "--tst-step-ratio": ["–", "0.24975"],
    }
    run("diff", "tiny", "tiny")
    assert "the same flags" in capsys.readouterr().out


def test_flags_of_a_baseline_are_megatrons_alone(capsys) -> None:
    run("flags", "smollm3-3b-baseline+8xh100+fp8-tensorwise")
    printed = capsys.readouterr()
    parser = add_megatron_arguments(argparse.ArgumentParser(allow_abbrev=False))
    args = parser.parse_args(printed.out.split())
    assert (args.num_layers, args.fp8_recipe, args.micro_batch_size) == (36, "tensorwise", 2)
    assert "--fixed-validation" in printed.err


def test_flags_of_a_baselines_blend_are_megatrons(capsys, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("extends: tiny\nblend: {sources: [{path: /web, weight: 2}]}\n")
    run("flags", str(recipe))
    assert capsys.readouterr().out.split()[-3:] == ["--data-path", "2.0", "/web"]


def test_flags_of_a_superposed_run_are_those_of_pretrain(capsys) -> None:
    run("flags", "smollm3-3b-tst")
    printed = capsys.readouterr()
    assert printed.out.split() == recipes.expand_recipe(["--recipe", "smollm3-3b-tst"])
    assert not printed.err


def test_show_says_where_every_value_comes_from(capsys) -> None:
    overrides = ("--lr", "1e-3", "--tst-schedule=8:0.1", "--seed", "7")
    run("show", "moe-10b-a1b-tst+64xh100+fp8-blockwise", *overrides)
    output = capsys.readouterr().out
    shown = rows(output)
    assert shown["--clip-grad"] == ["--clip-grad", "1.0", "_cluster.yaml"]
    assert shown["--fp8-recipe"][1:] == ["blockwise", "_cluster.yaml,", "fp8-blockwise"]
    assert shown["--micro-batch-size"][1:] == ["1", "moe-10b-a1b-baseline.yaml,", "64xh100"]
    assert shown["--train-iters"][1:] == [
        *("49983", "moe-10b-a1b-tst.yaml", "125000", "(moe-10b-a1b-baseline.yaml)")
    ]
    assert shown["--lr"][1:] == [
        *("1e-3", "command", "line", "3.0e-4", "(moe-10b-a1b-baseline.yaml)")
    ]
    assert shown["--tst-bag-size"][1:5] == ["left", "out", "command", "line"]
    assert shown["--seed"][1:] == ["7", "command", "line"]
    assert "The command line overrides --lr, --tst-bag-size, --tst-step-ratio." in output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--lrr", "1"), "the key lrr, .* did you mean lr?"),
        (("8xh100",), "'8xh100' follows the recipe and is no flag"),
        (("--lr", "abc"), "the command line has lr: abc"),
    ],
)
def test_show_refuses_overrides_that_pretrain_would(words: tuple[str, ...], says: str) -> None:
    with pytest.raises(UserError, match=says):
        run("show", "smollm3-3b-tst", *words)
