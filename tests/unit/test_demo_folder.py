import json
from dataclasses import replace
from pathlib import Path

import pytest

from tst_megatron.demo import QUICK_STEPS, Folder, Settings, _begin, _report
from tst_megatron.errors import UserError

SETTINGS = Settings(None, None, 512, ("--tst-bag-size=2",), ())


def test_a_folder_without_a_run_may_be_begun_again(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "demo")
    _begin(folder, SETTINGS)
    folder.text.tokenizer.parent.mkdir()
    folder.text.tokenizer.write_bytes(b"of the first settings")
    _begin(folder, SETTINGS)
    assert folder.text.tokenizer.exists()
    _begin(folder, replace(SETTINGS, vocab_size=600))
    assert not folder.text.tokenizer.exists()


def test_a_folder_with_a_run_keeps_its_settings(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "demo")
    _begin(folder, SETTINGS)
    folder.ledger("tst").parent.mkdir()
    folder.ledger("tst").touch()
    with pytest.raises(UserError, match="holds a demo with vocab_size 512, and this one has 600"):
        _begin(folder, replace(SETTINGS, vocab_size=600))


def test_a_report_of_whatever_is_there(tmp_path: Path) -> None:
    """Before the runs have begun, and with one of them begun: Ctrl-C leaves a report."""
    folder = Folder(tmp_path)
    nothing = _report(folder, 20_000)
    assert nothing.comparisons == ()
    report = json.loads((tmp_path / "report.json").read_text())
    assert "there is no run of the baseline or of the candidate" in report["headline"]
    assert report["partial"] is True
    assert report["equal_flops"]["loss_difference"] is None
    assert report["equal_loss"]["reached"] is False
    folder.ledger("tst").parent.mkdir()
    folder.ledger("tst").write_text('{"kind": "header", "step": 0, "schema_version": 2}\n')
    _report(folder, QUICK_STEPS)
    assert (tmp_path / "loss.png").exists()
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["candidate"]["steps"] == 0
    assert report["baseline"] is None
    assert any("quick look" in note for note in report["notes"])
    assert "There is no comparison yet" in (tmp_path / "report.html").read_text()
