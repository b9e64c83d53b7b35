"""Which step of a folder is meant."""

from pathlib import Path

import pytest
import torch
from saved import save_arguments

from tst_megatron.checkpoints.steps import TRACKER, step_folder
from tst_megatron.errors import UserError

STEP = "iter_0000010"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    save_arguments(tmp_path, num_layers=2)
    return tmp_path


def test_the_tracker_names_it_or_the_user_or_the_folder(kept: Path) -> None:
    assert step_folder(kept) == step_folder(kept, 10) == kept / STEP
    assert step_folder(kept / STEP) == kept / STEP
    renamed = (kept / STEP).rename(kept / "the-small-one")
    assert step_folder(renamed) == renamed


@pytest.mark.parametrize(
    ("folder", "step", "says"),
    [
        ("no", None, "there is no folder"),
        (".", 20, "--step 20 is not in .*name a step with --step, such as 10"),
        (STEP, 10, "--step 10 beside .*, which is a step itself"),
    ],
)
def test_what_is_not_there_is_refused(kept: Path, folder: str, step, says: str) -> None:
    with pytest.raises(UserError, match=says):
        step_folder(kept / folder, step)


def test_without_a_tracker_a_step_has_to_be_named(kept: Path) -> None:
    (kept / TRACKER).unlink()
    with pytest.raises(UserError, match=f"has no {TRACKER}: name a step with --step, such as 10"):
        step_folder(kept)
    assert step_folder(kept, 10) == kept / STEP


def test_a_folder_that_its_tracker_does_not_fit(kept: Path) -> None:
    (kept / TRACKER).write_text("30")
    with pytest.raises(UserError, match=f"the step that {TRACKER} names is not in"):
        step_folder(kept)


def test_a_step_of_ranks_is_one_too(tmp_path: Path) -> None:
    (tmp_path / "mp_rank_00").mkdir()
    torch.save({}, tmp_path / "mp_rank_00/model_optim_rng.pt")
    assert step_folder(tmp_path) == tmp_path
