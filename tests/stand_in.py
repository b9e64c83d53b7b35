"""A program in torchrun's place, for tests of what starts runs and not of what they do."""

import sys
from pathlib import Path

import pytest


def stand_in_for_torchrun(program: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have runs be started with a script that gets torchrun's command line."""
    program.write_text(script)
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
