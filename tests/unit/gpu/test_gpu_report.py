"""The report, its page, and what becomes of a check that ends in any way."""

import json
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.gpu import __main__ as runner
from tests.gpu import page as pages
from tests.gpu.__main__ import main
from tests.gpu.checks import CHECKS, Check
from tests.gpu.figures import FAILED, NOT_RUN, PASSED, SKIPPED
from tests.gpu.machine import Machine
from tests.gpu.report import Report, ReportError, read_report
from tests.gpu.running import run_check

ENVIRONMENT: dict[str, Any] = {
    "dry_run": False,
    "gpus_used": 1,
    "gpus": [{"name": "NVIDIA H100 80GB HBM3"}],
    "driver": "580.1",
    "cuda": "13.0",
    "torch": "2.11.0",
    "packages": {"megatron-core": "0.19.2"},
    "commit": "abc",
}


def ended(name: str, tmp_path: Path, limit_s: float = 60.0, cut: str = "", **more: Any) -> Any:
    machine = Machine(False, 1, str(tmp_path / name), str(tmp_path), str(tmp_path), limit_s, 1.0)
    check = Check(CHECKS[0].name, "", f"tests.unit.gpu.fake_checks:{name}", 1)
    return run_check(check, machine, {}, cut)


@pytest.mark.parametrize(
    ("name", "state", "reason", "figures"),
    [
        ("passes", PASSED, None, 1),
        ("misses", FAILED, "no number and 1 more missed the bound", 3),
        ("judges_nothing", FAILED, "no figure had a bound, so that nothing was checked", 1),
        ("raises", FAILED, "ValueError: what went wrong", 1),
        ("lacks", SKIPPED, "needs a thing", 0),
        ("misses_and_lacks", FAILED, "too large missed the bound", 1),
        ("killed", FAILED, "its process was ended by SIGABRT", 1),
    ],
)
def test_however_a_check_ends_it_is_told(
    name: str, state: str, reason: str | None, figures: int, tmp_path: Path
) -> None:
    result = ended(name, tmp_path)
    assert (result["state"], result["reason"]) == (state, reason)
    assert len(result["figures"]) == figures
    if name == "killed":
        assert "the driver's last words" in result["error"]
    if name == "misses":
        assert [figure["met"] for figure in result["figures"]] == [True, False, False]
        assert result["figures"][1]["value"] is None
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize(("cut", "state"), [("", FAILED), ("the budget was spent", NOT_RUN)])
def test_a_check_that_hangs_ends_with_all_that_it_started(
    cut: str, state: str, tmp_path: Path
) -> None:
    result = ended("hangs", tmp_path, limit_s=5.0, cut=cut)
    assert result["state"] == state
    assert len(result["figures"]) == 1
    sleeper = int((tmp_path / "hangs/sleeper").read_text())
    # Whoever adopts it may not have asked for its code yet.
    assert not psutil.pid_exists(sleeper) or psutil.Process(sleeper).status() == "zombie"


def result_of(name: str, state: str = PASSED, **more: Any) -> dict[str, Any]:
    number = [check.name for check in CHECKS].index(name)
    figure = {"what": "error", "value": 0.5, "unit": "", "bound": 1, "at_most": True, "met": True}
    return {
        **{"number": number, "name": name, "what": "", "gpus": 1, "state": state, "reason": None},
        **{"error": None, "seconds": 3.0, "figures": [figure], "notes": ["a remark"]},
        **more,
    }


def test_results_are_kept_until_they_are_made_again(tmp_path: Path) -> None:
    path, other = tmp_path / "new/report.json", ENVIRONMENT | {"gpus": [{"name": "NVIDIA H200"}]}
    report = Report()
    report.add(result_of("speed"), ENVIRONMENT)
    report.add(result_of("loss", FAILED, reason="why"), ENVIRONMENT)
    report.write(path)
    again = read_report(path)
    again.add(result_of("loss"), other)
    again.add(result_of("speed"), other)
    again.write(path)
    read = read_report(path)
    assert [(one["name"], one["state"]) for one in read.checks] == [
        ("loss", PASSED),
        ("speed", PASSED),
    ]
    # What no result is of any more is gone.
    assert read.environments == [other]


@pytest.mark.parametrize("content", ["", "[]", '{"schema_version": 0}'])
def test_another_file_is_no_report(content: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(ReportError, match=str(path)):
        read_report(path)


def test_the_page_and_readme_are_those_of_the_report_that_there_is() -> None:
    report = read_report(pages.REPORT) if pages.REPORT.exists() else None
    assert pages.PAGE.read_text() == pages.page(report)
    readme = pages.README.read_text()
    assert pages.readme(readme, report) == readme


def test_the_page_tells_of_gpus_alone() -> None:
    report = Report()
    report.add(result_of("loss"), ENVIRONMENT)
    report.add(result_of("fp8", FAILED, reason="it | broke\nhere"), ENVIRONMENT)
    report.add(result_of("demo", SKIPPED, reason="needs a thing"), ENVIRONMENT)
    report.add(result_of("clocks"), ENVIRONMENT | {"dry_run": True, "gpus": []})
    sentence = pages.sentence(report)
    assert sentence == (
        f"On NVIDIA H100 80GB HBM3, of {len(CHECKS)} checks 1 passed, 1 failed, 1 lacked what they "
        f"need, {len(CHECKS) - 3} have not run."
    )
    page = pages.page(report)
    assert sentence in page
    assert "| passed, 3 s |" in page
    assert "| **failed**: it \\| broke here |" in page
    assert page.count("\n## ") == 3
    assert "## clocks" not in page
    assert "- error: 0.5 (at most 1)\n- a remark" in page
    nothing = Report()
    nothing.add(result_of("loss"), ENVIRONMENT | {"dry_run": True, "gpus": []})
    assert pages.page(nothing) == pages.page(None)
    assert "Nothing here has run on a GPU so far." in pages.page(None)


def test_readmes_table_says_what_ran_where() -> None:
    readme = pages.README.read_text()
    (header,) = [at for at, line in enumerate(readme.split("\n")) if "| on GPUs |" in line]
    rows = readme.split("\n")[header + 2 :]
    rows = rows[: rows.index("")]
    assert len(rows) == len(pages._CELL.findall(readme)) >= 10
    if not pages.REPORT.exists():
        assert all("| not yet <!-- gpu:" in row for row in rows)
    report = Report()
    report.add(result_of("loss"), ENVIRONMENT)
    report.add(result_of("speed", FAILED, reason="why"), ENVIRONMENT)
    report.add(result_of("models"), ENVIRONMENT | {"dry_run": True, "gpus": []})
    filled = pages.readme(readme, report).split("\n")
    (kernels,) = [row for row in filled if row.startswith("| the loss of bags as Triton")]
    assert kernels.endswith(
        "| NVIDIA H100 80GB HBM3: passed: `loss`; **failed**: `speed`; not yet: `large-logits` "
        "<!-- gpu: loss large-logits speed --> |"
    )
    (heads,) = [row for row in filled if row.startswith("| multi-token prediction")]
    assert heads.endswith("| not yet <!-- gpu: models --> |")
    assert pages.readme("\n".join(filled), None) == pages.readme(readme, None)
    with pytest.raises(ReportError, match="a check 'modles'"):
        pages.readme(readme.replace("gpu: models -->", "gpu: modles -->"), None)


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose runs/gpu has a GPU's report; checks pass where they are asked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        runner, "_environment", lambda flags: ENVIRONMENT | {"dry_run": flags.dry_run}
    )
    monkeypatch.setattr(runner, "_for_processes", lambda *args: {})
    monkeypatch.setattr(runner, "run_check", lambda check, *more: result_of(check.name))
    out = tmp_path / "runs/gpu/gpu-report.json"
    report = Report()
    for name in ("loss", "speed"):
        report.add(result_of(name, FAILED, reason="why"), ENVIRONMENT)
    report.write(out)
    return out


def states(out: Path) -> dict[str, str]:
    return {one["name"]: one["state"] for one in read_report(out).checks}


def test_a_dry_run_leaves_a_gpus_results_alone(
    ran: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = ran.read_bytes()
    assert main(["--dry-run", "--only", "loss"]) == 0
    assert states(Path("runs/gpu-dry-run/gpu-report.json")) == {"loss": PASSED}
    assert main(["--dry-run", "--append", "--only", "loss", "--out", str(ran)]) == 2
    assert "has results of a GPU" in capsys.readouterr().err
    assert ran.read_bytes() == before


def test_results_of_a_gpu_are_lost_by_nothing(
    ran: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = ran.read_bytes()
    assert main([]) == 2
    assert "add --append" in capsys.readouterr().err
    assert ran.read_bytes() == before
    assert main(["--only", "speed", "clocks"]) == 0
    assert states(ran) == {"loss": FAILED, "speed": PASSED, "clocks": PASSED}


def test_what_a_dry_run_did_is_not_done_on_a_gpu(ran: Path, tmp_path: Path) -> None:
    dry = tmp_path / "dry.json"
    assert main(["--dry-run", "--only", "loss", "--out", str(dry)]) == 0
    assert main(["--append", "--out", str(dry)]) == 0
    report = read_report(dry)
    assert "loss" in states(dry)
    assert len(report.on_gpus.checks) == len(report.checks) > 10


def test_without_a_gpu_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert main(["--only", "loss", "--out", str(tmp_path / "report.json")]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("tests.gpu: there is no GPU here")
    assert said.err.count("\n") == 1
    assert not (tmp_path / "report.json").exists()


def test_what_there_is_no_time_for_is_not_run_and_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "_environment", lambda flags: ENVIRONMENT | {"dry_run": True})
    monkeypatch.setattr(runner, "run_check", lambda check, *more: result_of(check.name))
    out = tmp_path / "report.json"
    report = Report()
    for check in CHECKS[1:]:
        report.add(result_of(check.name), ENVIRONMENT | {"dry_run": True})
    report.write(out)
    flags = ["--dry-run", "--append", "--out", str(out), "--budget-minutes"]
    assert main([*flags, "0"]) == 0
    first = read_report(out).result(CHECKS[0].name)
    assert first is not None
    assert (first["state"], first["reason"]) == (NOT_RUN, "--budget-minutes 0 was spent")
    assert "1 not run" in capsys.readouterr().out
    assert main([*flags, "9"]) == 0
    assert read_report(out).number_in(PASSED) == len(CHECKS)
