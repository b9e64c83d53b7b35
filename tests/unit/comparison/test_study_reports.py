"""The study's script with ``--report``: what is not there is one sentence, and makes no folder."""

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ledgers import write_ledger

ROOT = Path(__file__).parents[3]


def report(out: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    script = ROOT / "examples" / "equal-loss-study" / "study.py"
    return subprocess.run(
        [sys.executable, str(script), "--report", "--out", str(out), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def kept(folder: Path, name: str, bags: bool = False) -> None:
    plain = folder / "ledger.jsonl"
    losses = {10: 5.0, 50: 4.0, 100: 3.0}
    write_ledger(plain, losses, stages=[(4, 100)] if bags else None, flags={"save": name})
    (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--ledgers", "TYPO"), "TYPO is no folder"),
        ((), "out/ledgers is no folder"),
        (("--ledgers", "empty"), "empty holds no ledger of the study"),
        (("--ledgers", "lone"), "lone holds no baseline with a rival"),
    ],
)
def test_nothing_to_report_on_is_one_sentence(
    tmp_path: Path, flags: tuple[str, ...], says: str
) -> None:
    for name in ("empty", "lone"):
        (tmp_path / name).mkdir()
    (tmp_path / "empty" / "other.jsonl.gz").touch()
    kept(tmp_path / "lone", "baseline-seed1")
    before = sorted(tmp_path.rglob("*"))
    places = [flag if flag.startswith("--") else tmp_path / flag for flag in flags]
    refused = report(tmp_path / "out", *places)
    assert (refused.returncode, refused.stdout) == (2, "")
    (line,) = refused.stderr.splitlines()
    assert line.startswith("tst-megatron: error: --ledgers")
    assert says in line
    assert sorted(tmp_path.rglob("*")) == before


def test_a_baseline_with_its_rival_has_a_report(tmp_path: Path) -> None:
    kept(tmp_path, "moe-baseline-seed1")
    kept(tmp_path, "moe-s4-r0.25-seed1", bags=True)
    done = report(tmp_path / "out", "--ledgers", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "moe" / "report.html").exists()
