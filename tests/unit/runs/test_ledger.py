import errno
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tst_megatron.runs import clock as run_clock
from tst_megatron.runs import ledger as ledgers
from tst_megatron.runs.clock import RunClock, clock_file
from tst_megatron.runs.ledger import LedgerError, read_ledger
from tst_megatron.runs.ledger_writer import LedgerWriter


@pytest.fixture(autouse=True)
def writers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[LedgerWriter]]:
    """Of a test: they end with it, and not with the tests' process."""
    made: list[LedgerWriter] = []
    initialise = LedgerWriter.__init__

    def keep(self: LedgerWriter, *args: Any, **named: Any) -> None:
        initialise(self, *args, **named)
        made.append(self)

    monkeypatch.setattr(LedgerWriter, "__init__", keep)
    yield made
    for writer in made:
        writer.close()


class Clock:
    """Time that a test sets."""

    now = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for name in ("time", "monotonic"):
        monkeypatch.setattr(run_clock.time, name, lambda: clock.now)
    return clock


def write_run(path: Path, first: int, last: int, started: float = 0.0) -> None:
    writer = LedgerWriter(path, {"step": first}, RunClock(path, started, world_size=2))
    for step in range(first + 1, last + 1):
        writer.write("step", {"step": step, "loss": float(step), "positions": step * 10})
        if step % 5 == 0:
            writer.write("validation", {"step": step, "next_token_loss": 1.0 / step})


def test_a_run_reads_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ledger.jsonl"
    write_run(path, 0, 10)
    ledger = read_ledger(path)
    assert ledger.header["schema_version"] == ledgers.SCHEMA_VERSION
    assert [line["step"] for line in ledger.steps] == list(range(1, 11))
    assert [line["step"] for line in ledger.validations] == [5, 10]
    for line in ledger.steps:
        assert line["gpu_hours"] == pytest.approx(2 * line["wall_clock_s"] / 3600, rel=1e-3)
    assert ledger.last["step"] == 10


def test_replayed_steps_replace_those_they_replay(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    write_run(path, 0, 9)
    write_run(path, 5, 12)
    ledger = read_ledger(path)
    assert [line["step"] for line in ledger.steps] == list(range(1, 13))
    assert [line["step"] for line in ledger.validations] == [5, 10]
    assert ledger.header["step"] == 5


def test_lost_time_still_counts(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "ledger.jsonl"
    clock.now = 1000.0
    writer = LedgerWriter(path, {"step": 0}, RunClock(path, 1000.0, world_size=1))
    clock.now = 1100.0
    writer.write("step", {"step": 7, "loss": 1.0})
    clock.now = 5010.0
    # Starts again at 5,000 from step 3, having lost four steps.
    writer = LedgerWriter(path, {"step": 3}, RunClock(path, 5000.0, world_size=1))
    writer.write("step", {"step": 4, "loss": 1.0})
    assert read_ledger(path).steps[-1]["wall_clock_s"] == pytest.approx(110.0)


def test_what_comes_after_the_last_line_counts_too(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "ledger.jsonl"
    writer = LedgerWriter(path, {"step": 0}, RunClock(path, clock.now, world_size=4))
    clock.now = 100.0
    writer.write("step", {"step": 1, "loss": 1.0})
    # It hangs, beats, and is killed.
    clock.now = 700.0
    writer._beat()
    # The next one dies before its first line, and waits for nothing.
    clock.now = 10_000.0
    writer = LedgerWriter(path, {"step": 1}, RunClock(path, clock.now, world_size=4))
    clock.now = 10_050.0
    writer._beat()
    clock.now = 20_000.0
    writer = LedgerWriter(path, {"step": 1}, RunClock(path, clock.now, world_size=2))
    clock.now = 20_010.0
    writer.write("step", {"step": 2, "loss": 1.0})
    line = read_ledger(path).steps[-1]
    assert line["wall_clock_s"] == pytest.approx(700 + 50 + 10)
    assert line["gpu_hours"] == pytest.approx((4 * 750 + 2 * 10) / 3600)


def test_the_clock_is_written_by_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.jsonl"
    LedgerWriter(path, {"step": 0}, RunClock(path, 0.0, world_size=1), fsync_interval_s=0.01)
    written = clock_file(path)
    deadline = time.monotonic() + 60
    while not written.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert set(json.loads(written.read_text())) == {"run_id", "wall_clock_s", "gpu_hours"}


def test_the_clock_of_another_run_is_not_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    write_run(path, 0, 1)
    clock_file(path).write_text('{"run_id": "another", "wall_clock_s": 1e12, "gpu_hours": 1e9}')
    write_run(path, 1, 2, started=1.0)
    assert read_ledger(path).steps[-1]["gpu_hours"] < 1e9


def test_a_full_disk_does_not_end_training_and_loses_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "ledger.jsonl"
    writer = LedgerWriter(path, {"step": 0}, RunClock(path, 0.0, world_size=1))
    disk, room = writer._file, 30

    class FullDisk:
        """It has room for a part of a line."""

        def write(self, content: bytes) -> int:
            nonlocal room
            if not room:
                raise OSError(errno.ENOSPC, "No space left on device")
            taken, room = min(room, len(content)), max(0, room - len(content))
            return disk.write(content[:taken])

        def fileno(self) -> int:
            return disk.fileno()

    monkeypatch.setattr(writer, "_file", FullDisk())
    with caplog.at_level(logging.WARNING):
        for step in (1, 2):
            writer.write("step", {"step": step, "loss": 1.0})
    assert caplog.text.count("cannot be written (No space left on device)") == 1
    assert read_ledger(path).steps == []
    room = 10**6
    writer.write("step", {"step": 3, "loss": 1.0})
    assert [line["step"] for line in read_ledger(path).steps] == [1, 2, 3]


def test_a_restart_inside_the_process_counts_no_second_twice(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "ledger.jsonl"
    clock.now = 1000.0
    writer = LedgerWriter(path, {"step": 0}, RunClock(path, 1000.0, world_size=2))
    clock.now = 1100.0
    writer.write("step", {"step": 7, "loss": 1.0})
    # The same process, so the same start, goes on from a checkpoint.
    clock.now = 1150.0
    writer = LedgerWriter(path, {"step": 3}, RunClock(path, 1000.0, world_size=2))
    writer.write("step", {"step": 4, "loss": 1.0})
    ledger = read_ledger(path)
    assert ledger.steps[-1]["wall_clock_s"] == pytest.approx(150.0)
    assert ledger.steps[-1]["gpu_hours"] == pytest.approx(300.0 / 3600)
    assert ledger.headers[0]["run_id"] == ledger.headers[1]["run_id"]


def test_gpu_hours_are_of_the_ranks_that_each_start_had(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "ledger.jsonl"
    # An hour on 4 ranks, then one on 16, then one on 2.
    for start, ranks in enumerate((4, 16, 2)):
        writer = LedgerWriter(path, {"step": start}, RunClock(path, clock.now, world_size=ranks))
        clock.now += 3600.0
        writer.write("step", {"step": start + 1, "loss": 1.0})
    ledger = read_ledger(path)
    assert ledger.notes == []
    assert [line["wall_clock_s"] for line in ledger.steps] == [3600.0, 7200.0, 10800.0]
    assert [line["gpu_hours"] for line in ledger.steps] == pytest.approx([4.0, 20.0, 22.0])


def test_a_kill_at_any_byte_leaves_a_ledger(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    write_run(whole, 0, 6)
    content = whole.read_bytes()
    header_end = content.index(b"\n") + 1
    # Every third, as each start waits for the disk; test_ledger_mending tries any.
    for size in range(header_end, len(content) + 1, 3):
        cut.write_bytes(content[:size])
        before = len(read_ledger(cut).steps)
        # A line is whole with its closing brace.
        whole_lines = [text for text in content[:size].split(b"\n") if text.endswith(b"}")]
        assert before == sum(b'"kind": "step"' in text for text in whole_lines)
        # Goes on from there: the cut line is ended, and what follows is read.
        write_run(cut, before, before + 2)
        assert [line["step"] for line in read_ledger(cut).steps] == list(range(1, before + 3))


def test_a_loss_that_is_not_a_number_is_null(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    writer = LedgerWriter(path, {"step": 0}, RunClock(path, 0.0, world_size=1))
    writer.write("step", {"step": 1, "loss": float("nan"), "grad_norm": float("inf")})
    line = json.loads(path.read_text().splitlines()[-1], parse_constant=pytest.fail)
    assert line["loss"] is None
    assert line["grad_norm"] is None


def test_lines_reach_the_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    writer = LedgerWriter(path, {"step": 0}, RunClock(path, 0.0, world_size=1))
    size = path.stat().st_size
    writer.write("step", {"step": 1, "loss": 1.0})
    assert path.stat().st_size > size


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "holds no header"),
        (b'{"kind": "step", "step": 1}\n', "line 1"),
        (b'{"kind": "header", "step": 0}\nnonsense\n', "line 2"),
        (b'{"kind": "header", "step": 0}\n{"kind": "other", "step": 1}\n', "line 2"),
        (b'[1, 2]\n{"kind": "header", "step": 0}\n', "line 1"),
    ],
)
def test_a_broken_ledger_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(content)
    with pytest.raises(LedgerError, match=says):
        read_ledger(path)


def test_a_missing_ledger_is_named(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"ledger\.jsonl cannot be read"):
        read_ledger(tmp_path / "ledger.jsonl")
