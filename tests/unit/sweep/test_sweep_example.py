"""The example's recipe is one that a sweep takes; its script is tested with the other examples'."""

from pathlib import Path

from tst_megatron.sweep.settings import settings_from_flags

EXAMPLE = Path(__file__).parents[3] / "examples" / "sweep"


def test_its_recipe_is_one() -> None:
    from tst_megatron.recipes import read
    from tst_megatron.recipes.keys import check_keys

    recipe = str(EXAMPLE / "small.yaml")
    check_keys(read(recipe))
    assert settings_from_flags(recipe, ()).num_steps == 2000
