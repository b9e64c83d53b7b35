from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tst_megatron.analysis.compare.group_curve import group_curve
from tst_megatron.analysis.compare.groups import Group
from tst_megatron.errors import UserError
from tst_megatron.runs.inputs import read_runs
from tst_megatron.runs.run import RecordedRun


def read(folder: Path, text: str) -> list[RecordedRun]:
    path = folder / "export.csv"
    path.write_text(text)
    return read_runs([path])


CHART = """"Step","my - run - lm loss validation","my - run - lm loss validation__MIN","my - run - lm loss validation__MAX","other - lm loss validation"
"20","4.5","4.5","4.5",""
"40","4.25","4.25","4.25","5.5"
"60","4.0","4.0","4.0","5.25"
"""  # noqa: E501


def test_a_charts_export_has_a_column_a_run(tmp_path: Path):
    one, two = read(tmp_path, CHART)
    assert (one.name, two.name, one.source) == ("my - run", "other", "wandb")
    np.testing.assert_array_equal(one.curve.steps, [20, 40, 60])
    np.testing.assert_array_equal(one.curve.losses, [4.5, 4.25, 4.0])
    np.testing.assert_array_equal(two.curve.steps, [40, 60])
    assert np.isnan(one.curve.wall_clock_s).all()
    assert np.isnan(one.curve.positions).all()
    assert one.num_steps == 60
    assert any("has no time in it" in note for note in one.notes)


def test_a_chart_over_time_with_its_steps(tmp_path: Path):
    (run,) = read(
        tmp_path,
        "Relative Time (Process),a - _step,a - _step__MIN,a - lm loss validation\n"
        "30.5,20,20,4.5\n61,40,40,4.25\n",
    )
    np.testing.assert_array_equal(run.curve.steps, [20, 40])
    np.testing.assert_array_equal(run.curve.wall_clock_s, [30.5, 61])


def test_a_history(tmp_path: Path):
    """As pandas writes it: with an index, and gaps where a line logs something else."""
    (run,) = read(
        tmp_path,
        ",_step,_runtime,_timestamp,samples vs steps,lm loss,learning-rate,grad-norm,"
        "lm loss validation,system/gpu,note\n"
        "0,10,100.0,1700000100,40,5.5,0.001,0.5,,x,hello\n"
        "1,20,200.0,1700000200,80,5.0,0.001,0.5,4.5,y,\n"
        "2,30,300.0,1700000300,120,4.5,0.0005,0.5,,z,\n"
        "3,40,400.0,1700000400,160,4.0,0.0001,0.5,4.0,z,there\n",
    )
    assert run.name == "export"
    assert run.header["flags"] == {"global_batch_size": 4}
    np.testing.assert_array_equal(run.curve.steps, [20, 40])
    np.testing.assert_array_equal(run.curve.wall_clock_s, [200, 400])
    np.testing.assert_array_equal(run.steps.losses, [5.5, 5.0, 4.5, 4.0])
    assert run.decay_start == 20


@pytest.mark.parametrize("cell", ["NaN", "nan", "Infinity"])
def test_losses_that_are_no_numbers_stay(tmp_path: Path, cell: str):
    """A run that diverged must not look as if it had ended before."""
    (run,) = read(
        tmp_path,
        "Step,samples vs steps,lm loss,lm loss validation\n"
        f"10,40,5,4\n20,NaN,5,\n30,120,{cell},{cell}\n",
    )
    np.testing.assert_array_equal(run.curve.steps, [10, 30])
    np.testing.assert_array_equal(np.isfinite(run.curve.losses), [True, False])
    assert run.num_steps == 30
    assert run.header["flags"] == {"global_batch_size": 4}
    assert group_curve(Group("baseline", (run,), 30)) is None


def test_a_clock_of_the_epoch_starts_at_the_first_line(tmp_path: Path):
    (run,) = read(tmp_path, "Step,_timestamp,lm loss validation\n1,1000.5,4\n2,1001.5,3\n")
    np.testing.assert_array_equal(run.curve.wall_clock_s, [0, 1])
    assert any("starts at the first line" in note for note in run.notes)


def test_a_clock_that_jumps_back_is_carried_on(tmp_path: Path):
    """As a ledger's: frozen, it would leave out hours."""
    (run,) = read(
        tmp_path,
        "Step,_runtime,lm loss,lm loss validation\n"
        "1,10,5,4\n2,20,5,4\n3,3,5,\n4,13,5,4\n5,1,5,4\n6,2,5,4\n",
    )
    np.testing.assert_array_equal(run.curve.wall_clock_s, [10, 20, 30, 30, 31])
    np.testing.assert_array_equal(run.steps.wall_clock_s, [10, 20, 20, 30, 30, 31])
    (note,) = (note for note in run.notes if "jumps back" in note)
    assert "first at step 3: it is carried on" in note


def test_a_clock_that_is_missing_once_is_unknown_there_alone(tmp_path: Path):
    (run,) = read(tmp_path, "Step,_runtime,lm loss validation\n1,10,5\n2,,4\n3,30,3\n")
    np.testing.assert_array_equal(run.curve.wall_clock_s, [10, np.nan, 30])
    assert not any("jumps back" in note for note in run.notes)


def test_runs_of_two_exports_that_are_called_alike(tmp_path: Path):
    (tmp_path / "a.csv").write_text(CHART)
    (tmp_path / "b.csv").write_text(CHART.replace("4.5", "4.75").replace("5.5", "5.75"))
    runs = read_runs([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert [run.name for run in runs] == ["my - run", "other", "b: my - run", "b: other"]


def test_what_is_left_out_may_be_there_twice(tmp_path: Path):
    (run,) = read(tmp_path, "Step,note,note,lm loss validation\n1,x,y,4\n")
    np.testing.assert_array_equal(run.curve.losses, [4])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", 'has no column "lm loss validation"'),
        ("Step,lm loss\n1,2\n", 'has no column "lm loss validation"'),
        ("lm loss validation\n1\n", "has no column of steps"),
        (
            'Step,a - lm loss validation,"a - lm loss validation"\n1,2,3\n',
            r'has the column "a - lm loss validation" twice',
        ),
        ("Step,lm loss validation\n1,2\n2,high\n", r"line 3: \"lm loss validation\" is 'high'"),
        # Negative ones were an index that is not there, fractions were cut off.
        ("Step,lm loss validation\n10,4\n\n-20,3\n", r"export.csv, line 4: the step is -20 and"),
        ("Step,lm loss validation\n-2,4\n-1,3\n", r"line 2: the step is -2 and not a whole number"),
        ("_step,a - lm loss validation\n10.5,4\n20,3\n", r"line 2: the step is 10.5 and not a"),
        (
            "Step,lm loss validation\n10,4\n20,3\n30,2\n10,4.1\n20,3.1\n30,2\n",
            r'several held-out losses at 2 of 3 steps.*: add a column "run"',
        ),
        (
            "run,Step,lm loss validation\na,10,4\n,20,3\n",
            r'line 3: its "run" is empty, so it does not say of which run it is',
        ),
        (
            "run,Step,a - lm loss validation\na,10,4\n",
            r'names its runs in its heads and in its column "run"',
        ),
        (
            "Step,_runtime,lm loss validation\n10,-5,4\n20,5,3\n",
            r"clock in seconds is -5 at step 10",
        ),
        ("Step,flops,lm loss validation\n10,-5,4\n20,5,3\n", r"its flops is -5 at step 10"),
        # The loss was 3, and what stood after its comma was left out.
        (
            "Step,lm loss validation\n10,3,25\n20,3,125\n",
            r"line 2: its cells are not as many .* \(3 and 2\)",
        ),
        (
            "Step,lm loss validation\n10,4\n\n20\n",
            r"line 4: its cells are not as many .* \(1 and 2\)",
        ),
        # The quote took in all lines after it.
        (
            'Step,note,lm loss validation\n10,x,4\n20,"x,3\n30,x,2\n',
            r"line 3: what begins there is not CSV \(unexpected end of data\)",
        ),
        (
            'Step,note,lm loss validation\n10,x,4\n20,"x,3\n30,"x,2\n',
            r"line 3: what begins there is not CSV \(',' expected after '\"'\)",
        ),
    ],
)
def test_what_cannot_be_read_is_a_sentence(tmp_path: Path, text: str, says: str):
    with pytest.raises(UserError, match=says):
        read(tmp_path, text)


def test_cells_past_the_heads_may_be_empty(tmp_path: Path):
    (run,) = read(tmp_path, 'Step,note,lm loss validation\n10,"a, b",4,,\n20,"c\nd",3,\n,,,,\n')
    np.testing.assert_array_equal(run.curve.losses, [4, 3])


def test_whole_steps_may_be_written_as_floats(tmp_path: Path):
    (run,) = read(tmp_path, "Step,lm loss validation\n0.0,5\n100.0,4\n1e3,3\n")
    np.testing.assert_array_equal(run.curve.steps, [0, 100, 1000])


def test_what_is_no_text(tmp_path: Path):
    path = tmp_path / "export.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not a CSV file"):
        read_runs([path])


HISTORIES = """run,run_id,_step,_runtime,lm loss validation
base,a1,20,10,4.5
base,a1,40,20,4.25
base,a1,60,30,4.0
tst,b2,20,11,4.4
tst,b2,40,21,4.15
tst,b2,60,31,3.9
"""


@pytest.mark.parametrize("column", ["run", "Name", "run_name", "Run ID", "displayName"])
def test_histories_in_one_file_are_taken_apart(tmp_path: Path, column: str):
    """Their lines were read as those of one run, of which the last at every step counted."""
    text = HISTORIES.replace("run,run_id,", f"{column},kept_by,")
    one, two = read(tmp_path, text)
    assert (one.name, two.name) == ("base", "tst")
    np.testing.assert_array_equal(one.curve.losses, [4.5, 4.25, 4.0])
    np.testing.assert_array_equal(two.curve.losses, [4.4, 4.15, 3.9])
    np.testing.assert_array_equal(one.curve.wall_clock_s, [10, 20, 30])


def test_runs_of_one_name_are_told_apart_by_their_ids(tmp_path: Path):
    one, two = read(tmp_path, HISTORIES.replace("tst", "base"))
    assert (one.name, two.name) == ("base a1", "base b2")


def test_a_clock_of_the_epoch_is_each_runs_own(tmp_path: Path):
    text = HISTORIES.replace("_runtime", "_timestamp").replace("b2,20,11", "b2,20,9011")
    text = text.replace("b2,40,21", "b2,40,9021").replace("b2,60,31", "b2,60,9031")
    for run in read(tmp_path, text):
        np.testing.assert_array_equal(run.curve.wall_clock_s, [0, 10, 20])


def test_a_run_without_a_held_out_loss_is_named(tmp_path: Path):
    (run,) = read(tmp_path, "Step,a - lm loss validation,b - lm loss\n10,4,5\n20,3,4\n")
    assert run.name == "a"
    assert 'Its export also has "b", without a held-out loss: left out.' in run.notes


@pytest.mark.parametrize(
    ("asked", "losses"), [(("val_loss",), [4.0, 3.0]), (("eval", "other_loss"), [2.0, 1.0])]
)
def test_a_held_out_loss_of_another_name(
    tmp_path: Path, asked: tuple[str, ...], losses: list[float]
):
    path = tmp_path / "export.csv"
    path.write_text(
        "Step,a - lm loss validation,a - val_loss,a - val_loss__MIN,a - other_loss\n"
        "10,9,4,0,2\n20,9,3,0,1\n"
    )
    (run,) = read_runs([path], loss_columns=asked)
    assert run.name == "a"
    np.testing.assert_array_equal(run.curve.losses, losses)
    assert f'Its held-out loss is what it calls "{asked[-1]}".' in run.notes


def test_the_training_loss_may_be_all_there_is(tmp_path: Path):
    path = tmp_path / "export.csv"
    path.write_text("Step,lm loss\n10,4\n20,3\n")
    (run,) = read_runs([path], loss_columns=["lm loss"])
    np.testing.assert_array_equal(run.curve.losses, [4.0, 3.0])
    np.testing.assert_array_equal(run.steps.losses, [4.0, 3.0])


def test_without_a_loss_the_columns_that_there_are_are_named(tmp_path: Path):
    path = tmp_path / "export.csv"
    path.write_text("Step,speed,val_loss,train_loss\n10,1,4,5\n")
    for asked, wanted in (((), "lm loss validation"), (("vall_loss",), "vall_loss")):
        with pytest.raises(UserError) as refused:
            read_runs([path], loss_columns=asked)
        assert str(refused.value) == (
            f'{path} has no column "{wanted}": it has "val_loss", "train_loss", "Step", "speed"; '
            "name the one of its held-out loss with --loss-column, or give a source that has one"
        )


@pytest.mark.parametrize("columns", ["lm loss,lm loss validation", "lm loss validation"])
def test_what_it_was_trained_by_is_not_told(tmp_path: Path, columns: str):
    """A run with bags logs these columns as well: it was called ordinary."""
    cells = ",".join("4" for _ in columns.split(","))
    (run,) = read(tmp_path, f"Step,samples vs steps,positions,{columns}\n10,40,5120,{cells}\n")
    assert not run.tells_methods
    assert run.stages == ()
    assert np.isnan(run.curve.data_tokens).all()


def test_a_resumed_history_has_some_steps_twice(tmp_path: Path):
    (run,) = read(
        tmp_path, "Step,lm loss validation\n10,5\n20,4.5\n20,4\n30,3.5\n30,3\n40,2\n50,1\n"
    )
    np.testing.assert_array_equal(run.curve.losses, [5, 4, 3, 2, 1])


def rows(steps: Iterable[int], gain: float = 0.0, group: str = "base") -> list[str]:
    return [f"{group},{step},{4 - step / 1000 - gain}" for step in steps]


def one_file(folder: Path, *histories: Iterable[str]) -> RecordedRun:
    lines = [line for history in histories for line in history]
    (run,) = read(folder, "\n".join(["group,Step,lm loss validation", *lines, ""]))
    return run


BASE, SHORT = range(50, 2001, 50), range(50, 801, 50)
OTHERS = [
    pytest.param([BASE, SHORT], r"several held-out losses at 16 of 40 steps", id="shorter"),
    pytest.param([SHORT, BASE], r"several held-out losses at 16 of 40 steps", id="longer"),
    pytest.param(
        [BASE, range(75, 2026, 50)],
        r"from 2,000 to 75 in line 42, and are others from there on",
        id="at alternate steps",
    ),
    pytest.param(
        [BASE, range(75, 2026, 75)],
        r"to 75 in line 42, and are others from there on",
        id="at other steps",
    ),
    pytest.param(
        [BASE, range(1050, 2001, 50)], r"to 1,050 in line 42, and never get past 2,000", id="branch"
    ),
    pytest.param(
        [range(100, 1001, 100), BASE], r"from 1,000 to 50 in line 12, where they began", id="finer"
    ),
]


@pytest.mark.parametrize(("steps", "says"), OTHERS)
def test_two_runs_in_one_file_that_does_not_name_them(tmp_path: Path, steps: Any, says: str):
    """Either's losses stood in for the other's."""
    one, two = steps
    with pytest.raises(UserError, match=rf'{says}, as of several runs: add a column "run"'):
        one_file(tmp_path, rows(one), rows(two, gain=0.1))


def test_sorted_by_step_they_are_two_runs_as_well(tmp_path: Path):
    both = sorted(rows(BASE) + rows(SHORT, gain=0.1), key=lambda row: int(row.split(",")[1]))
    with pytest.raises(UserError, match="several held-out losses at 16 of 40 steps"):
        one_file(tmp_path, both)


def test_a_column_that_changes_where_steps_go_back_names_runs(tmp_path: Path):
    first = rows(range(50, 1301, 50))
    with pytest.raises(UserError, match=r'to 1,050 in line 28, where "group" changes, as of sev'):
        one_file(tmp_path, first, rows(range(1050, 2001, 50), gain=0.1, group="tst"))


@pytest.mark.parametrize(
    "starts",
    [
        [range(50, 1301, 50), range(1050, 2001, 50)],
        # The second got no further than the first, the third did.
        [range(50, 1301, 50), range(1050, 1201, 50), range(1050, 2001, 50)],
        # It evaluates half as often from there on.
        [range(50, 1301, 50), range(1100, 2001, 100)],
    ],
)
def test_a_run_that_was_started_again_is_one(tmp_path: Path, starts: list[range]):
    """What it replayed counts from its last start."""
    histories = [rows(steps, gain=at / 10) for at, steps in enumerate(starts)]
    run = one_file(tmp_path, *histories)
    last = dict(zip(run.curve.steps, run.curve.losses, strict=True))
    for step in starts[-1]:
        assert last[step] == pytest.approx(4 - step / 1000 - (len(starts) - 1) / 10)


def test_lines_may_come_in_any_order(tmp_path: Path):
    lines = rows(BASE)
    for order in (
        np.random.default_rng(1).permutation(40),
        range(39, -1, -1),
        [*range(20, 40), *range(20)],
        # Once more: what it says it has said.
        [*range(40), *range(40)],
    ):
        run = one_file(tmp_path, [lines[at] for at in order])
        np.testing.assert_allclose(run.curve.losses, [4 - step / 1000 for step in BASE])
