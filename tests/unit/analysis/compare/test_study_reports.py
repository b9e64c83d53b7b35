"""The study's script with ``--report``: what is not there is one sentence, and makes no folder."""

import gzip
import runpy
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ledgers import write_ledger

SCRIPT = Path(__file__).parents[4] / "examples" / "equal-loss-study" / "study.py"


@pytest.fixture
def report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """The script in this process, as it is slow to start: exit code, output and error."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}

    def run(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(
            sys, "argv", ["study.py", "--report", "--out", f"{tmp_path}/out", *map(str, words)]
        )
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


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
    tmp_path: Path,
    report: Callable[..., tuple[int, str, str]],
    flags: tuple[str, ...],
    says: str,
) -> None:
    for name in ("empty", "lone"):
        (tmp_path / name).mkdir()
    (tmp_path / "empty" / "other.jsonl.gz").touch()
    kept(tmp_path / "lone", "baseline-seed1")
    before = sorted(tmp_path.rglob("*"))
    places = [flag if flag.startswith("--") else tmp_path / flag for flag in flags]
    code, shown, error = report(*places)
    assert (code, shown) == (2, "")
    (line,) = error.splitlines()
    assert line.startswith("tst-megatron: error: --ledgers")
    assert says in line
    assert sorted(tmp_path.rglob("*")) == before


def test_a_baseline_with_its_rival_has_a_report(
    tmp_path: Path, report: Callable[..., tuple[int, str, str]]
) -> None:
    kept(tmp_path, "moe-baseline-seed1")
    kept(tmp_path, "moe-s4-r0.25-seed1", bags=True)
    code, shown, error = report("--ledgers", tmp_path)
    assert code == 0, error
    assert shown.startswith("Report:")
    assert (tmp_path / "out" / "moe" / "report.html").exists()
