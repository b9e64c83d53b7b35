"""A folder belongs to one set of settings."""

import json
import re
from pathlib import Path

import pytest

from tst_megatron.errors import UserError
from tst_megatron.experiments.begin import begin


def test_the_same_settings_go_on_and_others_do_not(tmp_path: Path) -> None:
    file = tmp_path / "new" / "trial.json"
    begin(file, "trial", {"recipe": "tiny", "flags": {"lr": 0.1, "split": (1, 2)}})
    begin(file, "trial", {"recipe": "tiny", "flags": {"lr": 0.1, "split": (1, 2)}})
    for settings, says in (
        ({"recipe": "tiny", "flags": {"lr": 0.1}}, "a trial with split 1 2, and this one has none"),
        ({"recipe": "big", "flags": {"lr": 0.1, "split": (1, 2)}}, "recipe tiny, and this one has"),
        ({"recipe": "tiny", "flags": {"lr": 0.1, "split": ()}}, "has none"),
    ):
        with pytest.raises(UserError, match=re.escape(says)):
            begin(file, "trial", settings, absent="none")


def test_a_folder_begun_with_old_spellings_is_gone_on_in(tmp_path: Path) -> None:
    file = tmp_path / "trial.json"
    file.write_text(json.dumps({"flags": {"tst-fixed-validation": True, "lr": 0.1}}))
    begin(file, "trial", {"flags": {"fixed-validation": True, "lr": 0.1}})


def test_others_take_their_place_where_nothing_is_lost(tmp_path: Path) -> None:
    file = tmp_path / "trial.json"
    begin(file, "trial", {"steps": 1})
    begin(file, "trial", {"steps": 2}, may_start_over=lambda: True)
    assert json.loads(file.read_text()) == {"steps": 2}


def test_a_file_that_is_none_of_ours_is_named(tmp_path: Path) -> None:
    (tmp_path / "trial.json").write_text("[]")
    with pytest.raises(UserError, match=r"trial\.json is not a trial's"):
        begin(tmp_path / "trial.json", "trial", {})
