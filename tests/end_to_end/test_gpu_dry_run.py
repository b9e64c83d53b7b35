"""``python -m tests.gpu --dry-run``, of which a run on a GPU differs in sizes alone: two checks."""

from pathlib import Path

import pytest

from tests.gpu.__main__ import main
from tests.gpu.report import read_report


def test_the_checks_walk_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report.json"
    code = main(["--dry-run", "--only", "loss", "against-cpu", "--out", str(out)])
    said = capsys.readouterr().out
    assert code == 0, said
    report = read_report(out)
    assert [one["name"] for one in report.checks] == ["loss", "against-cpu"]
    for result in report.checks:
        assert result["state"] == "passed"
        assert all(figure["met"] is not False for figure in result["figures"])
        assert sum(figure["bound"] is not None for figure in result["figures"]) > 3
    assert report.environments[0]["dry_run"]
    assert "2 passed" in said
