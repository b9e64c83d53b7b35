"""What is refused before anything opens a file, and which rank looks at the corpora."""

from pathlib import Path

import pytest
from counted_corpora import parse

from tst_megatron.errors import UserError
from tst_megatron.trainer.checks import check_before_validation


def test_one_rank_of_a_node_looks_at_the_corpora(monkeypatch, tmp_path: Path) -> None:
    args = parse("--data-path", str(tmp_path / "gone"))
    monkeypatch.setenv("LOCAL_RANK", "1")
    check_before_validation(args, on_gpu=True)
    # The first of every node, as what is there on one may be missing on another.
    monkeypatch.setenv("RANK", "8")
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(UserError, match="gone is missing"):
        check_before_validation(args, on_gpu=True)


def test_a_ledger_is_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(UserError, match=f"--ledger {tmp_path} is a folder: name a file in it"):
        check_before_validation(parse("--ledger", str(tmp_path)), on_gpu=True)
