"""``tst-megatron compare`` as a user calls it, on ledgers made by hand with the least in them."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EVERY = 100
RATIO = 1.5
"""What the baseline of `curve` needs more of everything for any loss."""


def curve(steps: float) -> float:
    return 2.0 + 8.0 * steps**-0.35


def write_run(
    folder: Path,
    loss: Callable[[float], float],
    *,
    last: int = 2000,
    flags: dict[str, Any] | None = None,
    bag_size: int = 1,
) -> Path:
    """A ledger with a header of the fewest fields."""
    lines: list[dict[str, Any]] = [{"kind": "header", "step": 0, "schema_version": 1}]
    if flags:
        lines[0]["flags"] = flags
    for step in range(EVERY, last + 1, EVERY):
        bags = bag_size if step <= last // 4 else 1
        used = {
            "step": step,
            "wall_clock_s": 3.6 * step,
            "gpu_hours": 0.008 * step,
            "positions": 1024 * step,
            "data_tokens": 1024 * (step + (bag_size - 1) * min(step, last // 4)),
            "flops": 1e12 * step,
        }
        training = {
            "samples": 8 * step,
            "stage": 0 if bags > 1 else 1,
            "bag_size": bags,
            "loss_name": "mce" if bags > 1 else "next_token",
            "loss": loss(step),
            "learning_rate": 1e-3,
            "grad_norm": 1.0,
            "compute_s": 300.0,
            "other_s": 60.0,
        }
        lines.append({"kind": "step", **used, **training})
        lines.append(
            {
                "kind": "validation",
                **used,
                "next_token_loss": loss(step),
                "next_token_loss_stderr": 0.002,
            }
        )
    folder.mkdir()
    path = folder / "ledger.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders: a baseline, a candidate that needs 1.5 times less, a longer one, and a misfit."""
    root = tmp_path_factory.mktemp("runs")
    write_run(root / "baseline", lambda step: curve(step / RATIO), last=4000)
    write_run(root / "candidate", curve, bag_size=4)
    write_run(root / "worse", lambda step: curve(step) + 0.05, bag_size=2)
    write_run(root / "wide", curve, bag_size=4, flags={"hidden_size": 64})
    write_run(root / "narrow", curve, flags={"hidden_size": 32})
    return root


def compare(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tst_megatron", "compare", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"COLUMNS": "200"},
    )


def refuse(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


@pytest.fixture(scope="module")
def whole(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder and the printed JSON of one comparison with everything."""
    out = tmp_path_factory.mktemp("report") / "out"
    done = compare(
        runs / "baseline", "--with", runs / "worse", runs / "candidate", "--out", out, "--json",
        "--price-per-gpu-hour", "2", "--watts", "500",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout, parse_constant=refuse)


def test_json_alone_is_on_standard_output_and_in_the_folder(
    whole: tuple[Path, dict[str, Any]],
) -> None:
    out, printed = whole
    assert json.loads((out / "report.json").read_text(), parse_constant=refuse) == printed
    pictures = {"loss.png", "saving.png", "logged.png"}
    tables = {"evaluations.csv", "comparisons.csv", "saving.csv", "steps.csv"}
    names = {path.name for path in out.iterdir()}
    assert names == {"report.html", "report.json", *pictures, *tables}


def test_the_ratio_is_the_one_the_ledgers_were_made_with(
    whole: tuple[Path, dict[str, Any]],
) -> None:
    _, found = whole
    equal = found["equal_loss"]
    assert equal["reached"] is True
    assert equal["extrapolated"] is False
    for name in ("step_ratio", "flops_ratio", "wall_clock_ratio", "gpu_hours_ratio"):
        assert equal[name]["value"] == pytest.approx(RATIO, rel=0.05)
        assert equal[name]["low"] <= RATIO <= equal[name]["high"]
    assert equal["needed"]["candidate"]["cost"]["value"] == pytest.approx(2 * 16)
    assert equal["needed"]["candidate"]["energy_kwh"]["value"] == pytest.approx(0.5 * 16)


def test_the_best_group_is_first_and_named(whole: tuple[Path, dict[str, Any]]) -> None:
    _, found = whole
    assert found["groups"][0]["name"] == found["name"]
    assert "bags of 4" in found["name"]
    assert "bags of 2" in found["groups"][1]["name"]


def test_the_csv_has_the_jsons_figures(whole: tuple[Path, dict[str, Any]]) -> None:
    out, found = whole
    with (out / "comparisons.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["candidate_group"] == found["name"]]
    row = next(r for r in rows if (r["section"], r["figure"]) == ("equal_loss", "gpu_hours_ratio"))
    ratio = found["equal_loss"]["gpu_hours_ratio"]
    assert [float(row[end]) for end in ("value", "low", "high")] == list(ratio.values())


def test_text_is_the_default_and_writes_nothing(runs: Path, tmp_path: Path) -> None:
    done = compare(runs / "baseline" / "ledger.jsonl", "--with", runs / "candidate")
    assert done.returncode == 0, done.stderr
    assert "The candidate got to a held-out loss" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert done.stderr == ""


def test_what_means_nothing_is_refused_in_one_sentence(runs: Path, tmp_path: Path) -> None:
    sides = (runs / "narrow", "--with", runs / "wide")
    refused = compare(*sides, "--out", tmp_path / "out", "--json")
    assert refused.returncode == 2
    assert refused.stdout == ""
    (line,) = refused.stderr.splitlines()
    assert line.startswith("tst-megatron: error: The models differ")
    assert "--force" in line
    assert not (tmp_path / "out").exists()

    forced = compare(*sides, "--out", tmp_path / "out", "--json", "--force")
    assert forced.returncode == 0, forced.stderr
    found = json.loads(forced.stdout)
    assert found["forced"] is True
    assert "The models differ" in found["reasons"][0]
    assert "Forced; without --force it is refused" in (tmp_path / "out/report.html").read_text()


@pytest.mark.parametrize("shown", ["--text", "--json"])
def test_a_baseline_at_step_0_alone_is_reported_without_a_ratio(
    runs: Path, tmp_path: Path, shown: str
) -> None:
    header = {"kind": "header", "step": 0, "schema_version": 1}
    spent = dict.fromkeys(("wall_clock_s", "gpu_hours", "positions", "data_tokens", "flops"), 0)
    start = {"kind": "validation", "step": 0, **spent, "next_token_loss": curve(1000)}
    path = tmp_path / "ledger.jsonl"
    path.write_text(f"{json.dumps(header)}\n{json.dumps(start)}\n")
    done = compare(path, "--with", runs / "candidate", shown)
    assert (done.returncode, done.stderr) == (0, "")
    assert "no held-out loss but the one at step 0" in " ".join(done.stdout.split())


def test_a_baseline_that_diverged_at_its_end_is_refused(runs: Path, tmp_path: Path) -> None:
    path = write_run(tmp_path / "bad", curve)
    *lines, last = path.read_text().splitlines()
    path.write_text("\n".join([*lines, json.dumps(json.loads(last) | {"next_token_loss": None})]))
    refused = compare(path, "--with", runs / "candidate")
    assert (refused.returncode, refused.stdout) == (2, "")
    (line,) = refused.stderr.splitlines()
    assert f"diverged at the end: its held-out loss is not finite at step 2,000 of {path}" in line


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--watts", "-1"), "--watts -1 is no amount: give a number of 0 or more"),
        (("--price-per-gpu-hour", "nan"), "--price-per-gpu-hour nan is no amount"),
        (("--confidence", "95"), "--confidence 95 is no share: give a number between 0 and 1"),
        (("--out", "FILE"), "FILE is a file: give a folder"),
        (("--out", "FILE/below"), "FILE/below cannot be written"),
    ],
)
def test_a_wrong_flag_is_one_sentence(runs: Path, flags: tuple[str, str], says: str) -> None:
    file = str(runs / "candidate" / "ledger.jsonl")
    words = [flag.replace("FILE", file) for flag in flags]
    refused = compare(runs / "baseline", "--with", runs / "candidate", *words)
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert says.replace("FILE", file) in line


def test_help_imports_neither_charts_nor_figures() -> None:
    code = (
        "import sys; sys.argv = ['tst-megatron', 'compare', '--help']\n"
        "from tst_megatron.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'matplotlib', 'plotly', 'numpy', 'torch', 'rich'} & set(sys.modules)))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True
    )
    assert "--price-per-gpu-hour" in shown.stdout
    assert shown.stdout.splitlines()[-1] == "[]"
