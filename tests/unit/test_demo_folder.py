from dataclasses import replace
from pathlib import Path

import pytest

from tst_megatron.demo import Folder, Settings, _begin
from tst_megatron.errors import UserError

SETTINGS = Settings(None, None, 512, ("--tst-bag-size=2",), ())


def test_a_folder_without_a_run_may_be_begun_again(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "demo")
    _begin(folder, SETTINGS)
    folder.tokenizer.parent.mkdir()
    folder.tokenizer.write_bytes(b"of the first settings")
    _begin(folder, SETTINGS)
    assert folder.tokenizer.exists()
    _begin(folder, replace(SETTINGS, vocab_size=600))
    assert not folder.tokenizer.exists()


def test_a_folder_with_a_run_keeps_its_settings(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "demo")
    _begin(folder, SETTINGS)
    folder.ledger("tst").parent.mkdir()
    folder.ledger("tst").touch()
    with pytest.raises(UserError, match="holds a demo with vocab_size 512, and this one has 600"):
        _begin(folder, replace(SETTINGS, vocab_size=600))
