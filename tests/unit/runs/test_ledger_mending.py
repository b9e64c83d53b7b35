"""What is left of a ledger by kills, copies and clocks: it reads as one run, or as a sentence."""

import gzip
import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tst_megatron.runs.ledger import Ledger, LedgerError, read_ledger

HEADER: dict[str, Any] = {"kind": "header", "schema_version": 2, "step": 0, "run_id": "one"}
STEPS = 12
FIRST_LINE = 20.0  # Seconds of start-up.


def step(number: int, clock: float | None = None, **fields: Any) -> dict[str, Any]:
    clock = FIRST_LINE + number if clock is None else clock
    return {
        "kind": "step",
        "step": number,
        "wall_clock_s": clock,
        "gpu_hours": clock / 3600,
        "positions": 512 * number,
        "data_tokens": 512 * number,
        "flops": 1e9 * number,
        "loss": 5.0 - 0.1 * number,
        **fields,
    }


def validation(number: int, clock: float | None = None, **fields: Any) -> dict[str, Any]:
    line = {**step(number, clock), "kind": "validation", "next_token_loss": 4.0, **fields}
    del line["loss"]
    return line


def text(*lines: dict[str, Any] | str) -> str:
    return "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)


def read(folder: Path, *lines: dict[str, Any] | str) -> Ledger:
    path = folder / "ledger.jsonl"
    path.write_text(text(*lines))
    return read_ledger(path)


def numbers(ledger: Ledger) -> list[int]:
    return [line["step"] for line in ledger.steps]


def clocks(ledger: Ledger) -> list[float]:
    return [line["wall_clock_s"] for line in ledger.steps]


def some_run(start: int, clock: float) -> bytes:
    """A start of a run: it goes on from a step, and with the clock that it finds."""
    lines = [{**HEADER, "step": start}]
    for number in range(start + 1, STEPS + 1):
        clock += 1.0
        lines.append(step(number, clock))
        if number % 4 == 0:
            lines.append(validation(number, clock))
    return text(*lines).encode()


def resumed(left: bytes, checkpoint_every: int) -> bytes:
    """What the writer does of what a kill left: end the line, a header, on with the clock."""
    done, clock = 0, 0.0
    for found in left.split(b"\n"):
        try:
            line = json.loads(found)
        except ValueError:
            continue
        clock = max(clock, line.get("wall_clock_s", 0.0))
        done = line["step"]
    # What is due after a step is done before a checkpoint of it is taken.
    done = max(0, done - 1)
    ended = left if not left or left.endswith(b"\n") else left + b"\n"
    return ended + some_run(done - done % checkpoint_every, clock)


@given(data=st.data(), deaths=st.integers(1, 3), checkpoint_every=st.integers(1, 5))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_run_killed_at_any_bytes_reads_as_one(
    tmp_path: Path, data: st.DataObject, deaths: int, checkpoint_every: int
):
    content = some_run(0, 0.0)
    for _ in range(deaths):
        content = resumed(content[: data.draw(st.integers(0, len(content)))], checkpoint_every)
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(content)
    ledger = read_ledger(path)
    assert numbers(ledger) == list(range(1, STEPS + 1))
    assert [line["step"] for line in ledger.validations] == [4, 8, 12]
    assert clocks(ledger) == sorted(clocks(ledger))
    # A second a step that was written, lost ones too.
    whole = [found for found in content.split(b"\n") if found.endswith(b"}")]
    assert clocks(ledger)[-1] == sum(b'"kind": "step"' in found for found in whole)


def test_every_cut_of_a_compressed_ledger_reads_up_to_it(tmp_path: Path):
    whole = gzip.compress(some_run(0, 0.0))
    path = tmp_path / "ledger.jsonl.gz"
    path.write_bytes(whole)
    assert numbers(read_ledger(path)) == list(range(1, STEPS + 1))
    for size in range(len(whole) - 1, 0, -20):
        path.write_bytes(whole[:size])
        try:
            found = numbers(read_ledger(path))
        except LedgerError:
            # Not even the header is left.
            assert size < len(whole) / 2
            continue
        assert found == list(range(1, len(found) + 1))


def test_starts_that_were_cut_in_a_row_are_left_out(tmp_path: Path):
    ledger = read(
        tmp_path,
        '{"kind": "hea',
        HEADER,
        step(1),
        '{"kind": "step", "st',
        '{"kind": "header", "sch',
        "",
        {**HEADER, "step": 1},
        step(2),
        '{"kind": "step", "st',
    )
    assert numbers(ledger) == [1, 2]
    assert len(ledger.headers) == 2
    assert ledger.notes == [
        f"{ledger.path}, line 1 (and 3 more) was cut short and is left out.",
    ]


def test_zeros_that_a_power_cut_left_are_left_out(tmp_path: Path):
    ledger = read(tmp_path, HEADER, step(1), "\0" * 40, {**HEADER, "step": 1}, step(2), "\0" * 9)
    assert numbers(ledger) == [1, 2]


def test_a_last_line_without_an_end_counts_if_it_is_whole(tmp_path: Path):
    path = tmp_path / "ledger.jsonl"
    path.write_text(text(HEADER, step(1), validation(1)).removesuffix("\n"))
    assert len(read_ledger(path).validations) == 1


def test_a_run_that_died_thrice_counts_its_lost_time(tmp_path: Path):
    lines: list[dict[str, Any]] = []
    clock = 0.0
    for start in (0, 4, 4, 8):
        lines.append({**HEADER, "step": start})
        for number in range(start + 1, start + 7):
            clock += 10.0
            lines.append(step(number, clock))
    ledger = read(tmp_path, *lines)
    assert numbers(ledger) == list(range(1, 15))
    assert clocks(ledger)[:4] == [10, 20, 30, 40]
    assert clocks(ledger)[4:8] == [130, 140, 150, 160]
    assert clocks(ledger)[8:] == [190, 200, 210, 220, 230, 240]
    assert [header["step"] for header in ledger.headers] == [0, 4, 4, 8]
    assert ledger.notes == []


def test_a_clock_that_starts_anew_goes_on(tmp_path: Path):
    ledger = read(
        tmp_path,
        HEADER,
        *(step(number, 100.0 * number) for number in (1, 2, 3)),
        {**HEADER, "step": 2},
        *(step(number, 100.0 * (number - 2)) for number in (3, 4)),
    )
    assert clocks(ledger) == [100, 200, 400, 500]
    assert [line["gpu_hours"] * 3600 for line in ledger.steps] == pytest.approx(clocks(ledger))
    (by_wall, _) = ledger.notes
    assert "line 6 has a wall_clock_s that jumps back" in by_wall


def test_a_clock_that_jumps_back_is_carried_on(tmp_path: Path):
    times = [100.0, 110.0, 50.0, 60.0, 20.0, 40.0]
    ledger = read(
        tmp_path, HEADER, *(step(number, time) for number, time in enumerate(times, start=1))
    )
    assert clocks(ledger) == [100, 110, 110, 120, 120, 140]
    assert "line 4 (and 1 more) has a wall_clock_s that jumps back" in ledger.notes[0]


def test_a_start_that_comes_to_nothing_forgets_nothing(tmp_path: Path):
    """As one that evaluates an older checkpoint, or that dies before its first line."""
    lines = [step(number, 10.0 * number) for number in range(100, 1001, 100)]
    older = {"kind": "header", "step": 300}
    evaluated = read(tmp_path, HEADER, *lines, older, validation(300, 1010.0))
    assert numbers(evaluated) == [line["step"] for line in lines]
    assert evaluated.validations == []
    again = {"kind": "header", "step": 1000}
    resumed = read(tmp_path, HEADER, *lines, older, again, step(1100, 1200.0))
    assert numbers(resumed) == [*(line["step"] for line in lines), 1100]


def test_hours_of_a_part_of_a_run_are_not_known(tmp_path: Path):
    ledger = read(tmp_path, {"kind": "header", "step": 500}, step(510, 5.0), step(520, 6.0))
    assert clocks(ledger) == [None, None]
    assert "line 1 starts at step 500: what came before is in another ledger" in ledger.notes[0]


def test_lines_out_of_order_are_put_where_they_belong(tmp_path: Path):
    steps = [step(number) for number in range(1, 7)]
    validations = [validation(number) for number in (3, 6)]
    in_order = read(tmp_path, HEADER, *steps, *validations)
    for lines in itertools.islice(itertools.permutations([*steps, *validations]), 0, None, 977):
        ledger = read(tmp_path, HEADER, *lines)
        assert (ledger.steps, ledger.validations) == (in_order.steps, in_order.validations)
        assert any("out of order" in note for note in ledger.notes)


def test_going_back_without_a_start_replays(tmp_path: Path):
    ledger = read(tmp_path, HEADER, *(step(n) for n in (1, 2, 3, 4)), step(2, 50.0), step(3, 51.0))
    assert numbers(ledger) == [1, 2, 3]
    assert clocks(ledger) == [21, 50, 51]
    assert "line 6 goes back without a start" in ledger.notes[0]


def test_the_first_evaluation_at_a_step_counts(tmp_path: Path):
    """After the last step Megatron validates once more, on other samples; hours are those after."""
    lines = [step(10), validation(10, next_token_loss=3.0, facts={"switch_step": 5})]
    again = {**HEADER, "step": 10}
    for ledger in (
        read(tmp_path, HEADER, *lines, validation(10, 99.0, next_token_loss=3.5)),
        read(tmp_path, HEADER, *lines, again, validation(10, 99.0, next_token_loss=3.5)),
    ):
        (line,) = ledger.validations
        assert (line["next_token_loss"], line["wall_clock_s"]) == (3.0, 99.0)
        assert line["facts"] == {"switch_step": 5}
        assert ledger.notes == []


def test_a_step_that_is_replayed_is_evaluated_anew(tmp_path: Path):
    lines = [step(9), step(10), validation(10, next_token_loss=3.0)]
    later = [{**HEADER, "step": 9}, step(10, 40.0), validation(10, 41.0, next_token_loss=3.5)]
    (line,) = read(tmp_path, HEADER, *lines, *later).validations
    assert line["next_token_loss"] == 3.5


@pytest.mark.parametrize("name", ["wall_clock_s", "gpu_hours", "data_tokens", "flops"])
def test_less_than_nothing_is_refused(tmp_path: Path, name: str):
    with pytest.raises(LedgerError, match=rf'line 2: its "{name}" is -1 and must be 0 or more'):
        read(tmp_path, HEADER, step(1, **{name: -1}))


def test_a_step_twice_counts_once(tmp_path: Path):
    ledger = read(tmp_path, HEADER, step(1), step(2, loss=9.0), step(2, loss=1.0))
    assert [line["loss"] for line in ledger.steps] == [4.9, 1.0]
    assert "line 4 logs a step again" in ledger.notes[0]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "null"])
def test_what_is_not_finite_is_none(tmp_path: Path, value: str):
    line = json.dumps(step(1, loss=0.5)).replace("0.5", value)
    ledger = read(tmp_path, HEADER, line, step(2))
    assert ledger.steps[0]["loss"] is None
    assert ledger.steps[1]["loss"] is not None


def test_what_is_missing_is_none(tmp_path: Path):
    ledger = read(
        tmp_path,
        {"kind": "header", "step": 0},
        {"kind": "step", "step": 1},
        {"kind": "validation", "step": 1, "next_token_loss": 3.0},
    )
    assert ledger.steps[0]["wall_clock_s"] is None
    assert ledger.validations[0]["flops"] is None
    assert ledger.last == ledger.validations[0]


def test_whole_floats_are_counts(tmp_path: Path):
    assert numbers(read(tmp_path, HEADER, step(1) | {"step": 3.0})) == [3]


def test_numbers_too_large_for_floating_point_are_unknown(tmp_path: Path):
    huge = 10**400
    header = {**HEADER, "flags": {"train_iters": huge}, "data": None, "seed": None}
    ledger = read(tmp_path, header, step(1, flops=huge), validation(1) | {"wall_clock_s": huge})
    assert ledger.steps[0]["flops"] is None
    assert ledger.validations[0]["wall_clock_s"] is None
    assert ledger.header["flags"] == {"train_iters": math.inf}


def test_a_run_without_run_ids_may_start_again(tmp_path: Path):
    header = {"kind": "header", "step": 0, "schema_version": 1, "seed": 1, "flags": {"lr": 1}}
    ledger = read(
        tmp_path, header, step(1), step(2), {**header, "step": 1, "run_id": "new"}, step(2, 90.0)
    )
    assert clocks(ledger) == [21, 90]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ((HEADER, step(1), HEADER | {"run_id": "two"}, step(1)), "line 3: another run starts"),
        (
            (
                {"kind": "header", "step": 0, "seed": 1},
                step(1),
                {"kind": "header", "step": 0, "seed": 2},
            ),
            "line 3: another run starts",
        ),
        (
            (
                {"kind": "header", "step": 0},
                step(1),
                step(2),
                {"kind": "header", "step": 0},
                step(1),
            ),
            "line 5: another run starts",
        ),
        ((HEADER | {"schema_version": 4},), "line 1: a ledger of schema 4"),
        ((HEADER | {"schema_version": "x"},), 'line 1: a ledger of schema "x"'),
        ((HEADER, step(1, loss="high")), 'line 2: its "loss" is "high"'),
        ((HEADER, step(1, loss=True)), 'line 2: its "loss" is true'),
        ((HEADER, step(1, extras={"router": "x"})), 'line 2: its "router"'),
        ((HEADER, step(1, extras=[1])), 'line 2: its "extras"'),
        ((HEADER, step(1) | {"step": -1}), 'line 2: its "step" is -1'),
        ((HEADER, step(1) | {"step": 1.5}), 'line 2: its "step" is 1.5'),
        ((HEADER, step(1) | {"step": None}), 'line 2: its "step" is null'),
        ((HEADER | {"flags": [1]},), 'line 1: its "flags"'),
        ((HEADER | {"run_id": ["a"]},), 'line 1: its "run_id" is ["a"]'),
        ((HEADER | {"seed": [1]},), 'line 1: its "seed" is [1]'),
        ((HEADER | {"flags": {"seed": [1]}},), 'line 1: its "seed" is [1]'),
        ((HEADER | {"recipe": {"name": {}}},), 'line 1: its "name" is {}'),
        ((HEADER | {"superposition": {"objective": []}},), 'line 1: its "objective" is []'),
        ((HEADER | {"data": {"path": "/a"}},), 'line 1: its "data" is {"path": "/a"}'),
        ((HEADER | {"data": ["/a"]},), 'line 1: its "data" is ["/a"]'),
        ((HEADER, step(1) | {"step": 10**400}), 'line 2: its "step" is Infinity'),
        ((HEADER | {"superposition": {"stages": [[4]]}},), 'line 1: its "stages"'),
        ((HEADER | {"superposition": {"stages": 4}},), 'line 1: its "stages"'),
        ((HEADER, '{"kind": "step", "st', step(2)), "line 2: not a line of a ledger"),
        ((HEADER, '"' + "x" * 90 + '"'), "line 2: not a line of a ledger"),
    ],
)
def test_what_cannot_be_mended_is_a_sentence(tmp_path: Path, lines: Any, says: str):
    with pytest.raises(LedgerError) as raised:
        read(tmp_path, *lines)
    message = str(raised.value)
    assert str(tmp_path / "ledger.jsonl") in message
    assert says in message
    assert "\n" not in message


def test_what_is_no_gzip_file_is_a_sentence(tmp_path: Path):
    path = tmp_path / "ledger.jsonl.gz"
    path.write_bytes(b"\x1f\x8b" + b"x" * 30)
    with pytest.raises(LedgerError, match="cannot be decompressed"):
        read_ledger(path)


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0, 100)), max_size=20))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_steps_go_up_and_clocks_go_on_whatever_comes(tmp_path: Path, lines: Any):
    ledger = read(tmp_path, HEADER, *(step(number, clock) for number, clock in lines))
    assert numbers(ledger) == sorted(set(numbers(ledger)))
    assert clocks(ledger) == sorted(clocks(ledger))
