import argparse
from pathlib import Path

import pytest
from megatron.training.arguments import add_megatron_arguments

from tst_megatron.errors import UserError
from tst_megatron.training import recipes
from tst_megatron.training.arguments import add_tst_arguments


@pytest.mark.parametrize("name", recipes.names())
def test_every_key_is_a_flag_of_megatrons_or_ours(name: str) -> None:
    parser = add_tst_arguments(add_megatron_arguments(argparse.ArgumentParser(allow_abbrev=False)))
    parser.parse_args(recipes.flags(recipes.load(name)))


def test_flags_after_the_recipe_win(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("lr: 0.1\nswiglu: true\nfp16: false\nspec: [a.b, c]\nseed: null\n")
    assert recipes.expand_recipe(["--seed", "3", "--recipe", str(recipe), "--lr=0.2"]) == [
        *("--lr", "0.1", "--swiglu", "--spec", "a.b", "c"),
        *("--seed", "3", "--lr=0.2"),
    ]
    assert recipes.expand_recipe([f"--recipe={recipe}"])[:2] == ["--lr", "0.1"]
    assert recipes.expand_recipe(["--lr", "1"]) == ["--lr", "1"]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--recipe", "nope"], "there is no recipe 'nope': use one of .*tiny"),
        (["--recipe", "gone.yaml"], "gone.yaml cannot be read"),
        (["--recipe"], "--recipe needs a name"),
        (["--recipe", "tiny", "--recipe=tiny"], "given twice"),
    ],
)
def test_a_bad_recipe_is_named(argv: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        recipes.expand_recipe(argv)


@pytest.mark.parametrize("content", ["a: [", "- a\n- b\n", "just text"])
def test_a_broken_recipe_is_named(tmp_path: Path, content: str) -> None:
    recipe = tmp_path / "broken.yaml"
    recipe.write_text(content)
    with pytest.raises(UserError, match=r"broken\.yaml"):
        recipes.expand_recipe(["--recipe", str(recipe)])
