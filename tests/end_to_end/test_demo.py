"""``tst-megatron demo`` as a user calls it, small: to the end, cut off, and called again."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from interrupting import interrupt_when

from tst_megatron.runs.ledger import LedgerError, read_ledger

SMALL = (
    *("--vocab-size", "384", "--steps", "400", "--tst-bag-size", "2", "--tst-step-ratio", "0.25"),
    *("--num-layers", "1", "--hidden-size", "32", "--ffn-hidden-size", "64"),
    *("--num-attention-heads", "2", "--seq-length", "32", "--max-position-embeddings", "32"),
    *("--eval-iters", "2", "--eval-global-batch-size", "8", "--eval-micro-batch-size", "8"),
)
ENVIRONMENT = os.environ | {"TERM": "dumb", "COLUMNS": "120"}


@pytest.fixture(scope="module")
def text(corpus, tmp_path_factory) -> Path:
    """A user's corpus: files of every kind."""
    folder = tmp_path_factory.mktemp("text")
    for number, document in enumerate(corpus.documents[:40]):
        (folder / f"{number}{('.txt', '.md', '.py')[number % 3]}").write_text(document)
    lines = [json.dumps({"text": document}) for document in corpus.documents[40:]]
    (folder / "more.jsonl").write_text("\n".join(lines))
    return folder


def command(out: Path, text: Path, *flags: str) -> list[str]:
    start = (sys.executable, "-W", "ignore", "-m", "tst_megatron", "demo")
    return [*start, "--out", str(out), "--corpus", str(text), *SMALL, *flags]


def demo(out: Path, text: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(out, text, *flags),
        capture_output=True,
        text=True,
        timeout=500,
        env=ENVIRONMENT,
        check=False,
    )


def compare(out: Path) -> dict[str, Any]:
    """What ``tst-megatron compare`` says of the demo's runs."""
    words = (str(out / "baseline"), "--with", str(out / "tst"), "--json")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tst_megatron", "compare", *words],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check_report(out: Path, steps: int) -> None:
    report = json.loads((out / "report.json").read_text(), parse_constant=pytest.fail)
    for side, bag_size in (("baseline", 1), ("candidate", 2)):
        result = report[side]
        assert result["steps"] == steps
        assert result["positions"] == steps * 4 * 32
        superposed = steps // 4
        assert result["data_tokens"] == (superposed * bag_size + 3 * superposed) * 4 * 32
        assert result["wall_clock_s"] > 0
        assert result["final_loss"] > 0
    assert report["candidate"]["flops"] == report["baseline"]["flops"]
    compared = compare(out)
    for key in ("equal_loss", "equal_flops", "equal_data", "groups"):
        assert report[key] == compared[key]
    assert report["equal_flops"]["at_end"] is True
    assert {"loss", "step_ratio", "wall_clock_ratio", "reached"} <= report["equal_loss"].keys()
    assert report["partial"] is False
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (out / "report.html").read_text()


def steps_of(out: Path, run: str) -> int:
    try:
        ledger = read_ledger(out / run / "ledger.jsonl")
    except LedgerError:
        return 0
    return ledger.steps[-1]["step"] if ledger.steps else 0


def test_a_demo_that_is_cut_off_and_called_again(text: Path, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    running = subprocess.Popen(
        command(out, text),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    )
    interrupt_when(lambda: min(steps_of(out, "baseline"), steps_of(out, "tst")) >= 30, running)

    cut = {run: steps_of(out, run) for run in ("baseline", "tst")}
    report = json.loads((out / "report.json").read_text())
    assert report["partial"]
    assert (out / "loss.png").exists()
    for run, steps in cut.items():
        tracker = out / run / "checkpoints" / "latest_checkpointed_iteration.txt"
        # Stopped on the way, and saved there, so that nothing is trained twice.
        assert steps < 400
        assert int(tracker.read_text()) >= steps - 10

    again = demo(out, text)
    assert again.returncode == 0, again.stdout + again.stderr
    check_report(out, 400)
    for run, steps in cut.items():
        header = read_ledger(out / run / "ledger.jsonl").header
        assert header["step"] >= steps - 10, "it started from the beginning"
    assert "positions/s" in again.stdout
    assert "data tokens/s" in again.stdout
    for run in cut:
        assert re.search(f"The {run} run's model writes: ['\"].{{20}}", again.stdout)
    assert f"tst-megatron export {out / 'tst' / 'checkpoints'} --output my-model" in again.stdout

    finished = demo(out, text)
    assert finished.returncode == 0
    assert read_ledger(out / "tst" / "ledger.jsonl").header == header, "it trained once more"

    other = demo(out, text, "--steps", "300")
    assert other.returncode == 2
    assert "holds a demo with steps 400" in other.stderr


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--corpus", "nowhere"), "the input .*nowhere is missing"),
        (("--steps", "0"), "--steps 0 is below 1"),
        (("--steps", "200000"), "steps fit"),
        (("--quick",), "--quick and --steps"),
        (("--tst-bag-size", "0"), "bag size 0 is below 1"),
        (("--out", "/dev/null/demo"), "--out .* cannot be written"),
        (("--vocab-size", "100"), "vocabulary of 100 is too small"),
        (("--vocab-size", "500000"), "no tokenizer of 500000 pieces"),
    ],
)
def test_bad_input_is_one_sentence(text: Path, tmp_path: Path, flags, says: str) -> None:
    import re

    refused = demo(tmp_path / "demo", text, *flags)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    sentences = [x for x in refused.stderr.splitlines() if x.startswith("tst-megatron: error:")]
    assert len(sentences) == 1, refused.stderr
    assert re.search(says, sentences[0])
    assert "Traceback" not in refused.stderr


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    refused = demo(tmp_path / "demo", empty)
    assert refused.returncode == 2
    assert "holds no .jsonl, .json, .csv, .tsv, .parquet, .arrow or .txt file" in refused.stderr
