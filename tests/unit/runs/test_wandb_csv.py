from pathlib import Path

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
        "2,30,300.0,1700000300,120,4.5,0.0005,0.5,,z\n"
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
    ],
)
def test_what_cannot_be_read_is_a_sentence(tmp_path: Path, text: str, says: str):
    with pytest.raises(UserError, match=says):
        read(tmp_path, text)


def test_whole_steps_may_be_written_as_floats(tmp_path: Path):
    (run,) = read(tmp_path, "Step,lm loss validation\n0.0,5\n100.0,4\n1e3,3\n")
    np.testing.assert_array_equal(run.curve.steps, [0, 100, 1000])


def test_what_is_no_text(tmp_path: Path):
    path = tmp_path / "export.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not a CSV file"):
        read_runs([path])
