"""A run that is on both sides is refused, whatever either side was read from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_runs import made_ledger
from torch.utils.tensorboard import SummaryWriter

from tst_megatron.analysis.compare.compare import compare_paths
from tst_megatron.analysis.compare.result import Findings, Prices
from tst_megatron.errors import UserError
from tst_megatron.runs.inputs import read_runs

STEPS = range(10, 101, 10)
BASE = {step: float(np.float32(2 + 5 * (step + 20) ** -0.35)) for step in STEPS}
TST = {step: float(np.float32(loss - 0.1)) for step, loss in BASE.items()}
ITSELF = "A run would be compared with itself"


def ledger(folder: Path, name: str, losses: dict[int, float], run_id: bool = True) -> Path:
    """With an evaluation after the last step, as Megatron makes one, on other samples."""
    header = {"run_id": str(losses) if run_id else None}
    path = made_ledger(folder, name, header, losses=losses, stages=[(4, 100)])
    *_, last = path.read_text().splitlines()
    with path.open("a") as file:
        file.write(last.replace(str(losses[100]), str(losses[100] + 0.01)) + "\n")
    return path


def nameless(folder: Path, name: str, losses: dict[int, float]) -> Path:
    """As ledgers were before they had an id of their run."""
    return ledger(folder, name, losses, run_id=False)


def events(
    folder: Path, name: str, losses: dict[int, float], flags: dict[str, Any] | None = None
) -> Path:
    with SummaryWriter(folder / name) as writer:
        for flag, value in (flags or {}).items():
            writer.add_text(flag, str(value))
        for step, loss in [*losses.items(), (100, losses[100] + 0.01), (100, 9.0)]:
            writer.add_scalar("lm loss validation", loss, step)
            writer.add_scalar("learning-rate", 1e-3, step)
    return folder / name


def export(folder: Path, name: str, losses: dict[int, float]) -> Path:
    """W&B keeps what was logged of a step last."""
    path = folder / f"{name}.csv"
    rows = {**losses, 100: losses[100] + 5}
    path.write_text("Step,lm loss validation\n" + "".join(f"{s},{x}\n" for s, x in rows.items()))
    return path


def both(folder: Path) -> Path:
    path = folder / "both.csv"
    rows = "".join(f"{step},{BASE[step]},{TST[step]}\n" for step in STEPS)
    path.write_text(f"Step,base - lm loss validation,tst - lm loss validation\n{rows}")
    return path


def found(baseline: Path, candidate: Path, force: bool = False) -> Findings:
    return compare_paths([baseline], [candidate], 0.95, force, Prices())


SOURCES: list[Callable[..., Path]] = [ledger, events, export]


@pytest.mark.parametrize("one", SOURCES)
@pytest.mark.parametrize("other", SOURCES)
def test_one_run_from_two_sources(tmp_path: Path, one: Any, other: Any):
    """By its content: only ledgers have an id of their run."""
    with pytest.raises(UserError, match=ITSELF):
        found(one(tmp_path, "here", TST), other(tmp_path, "there", TST))


@pytest.mark.parametrize("other", SOURCES)
def test_a_run_of_other_losses_is_another(tmp_path: Path, other: Any):
    compared = found(other(tmp_path, "base", BASE), export(tmp_path, "tst", TST), force=True)
    assert not any(ITSELF in reason for reason in compared.reasons)


# Between W&B and another source the last step is of other samples.
@pytest.mark.parametrize("step", [10, 50, 90, 100])
@pytest.mark.parametrize("source", [nameless, events, export])
def test_runs_that_differ_at_one_step_are_two(tmp_path: Path, source: Any, step: int):
    """As a trunk and a branch of it do that decayed after all evaluations but the last."""
    other = TST | {step: TST[step] - 0.02}
    paths = [source(tmp_path, name, of) for name, of in (("trunk", TST), ("branch", other))]
    assert len(read_runs(paths)) == 2


def test_a_shorter_run_that_left_a_longer_ones_path_is_another(tmp_path: Path):
    """It has all its steps in common with it, and ends elsewhere."""
    path = tmp_path / "lengths.csv"
    cells = {step: loss - 0.03 * (step == 50) for step, loss in BASE.items() if step <= 50}
    rows = "".join(f"{step},{BASE[step]},{cells.get(step, '')}\n" for step in STEPS)
    path.write_text(f"Step,long - lm loss validation,short - lm loss validation\n{rows}")
    assert [run.name for run in read_runs([path])] == ["long", "short"]


@pytest.mark.parametrize("flag", ["train_iters", "lr_decay_iters", "exit_interval"])
def test_an_older_copy_of_a_run_that_was_made_longer_is_the_same(tmp_path: Path, flag: str):
    (run,) = read_runs(
        [
            events(tmp_path, "then", TST, {"seed": 1, flag: 100}),
            events(tmp_path, "now", TST | {110: 1.9}, {"seed": 1, flag: 200}),
        ]
    )
    assert run.name == "now"


def test_an_export_of_both_sides_is_taken_apart(tmp_path: Path):
    path = both(tmp_path)
    compared = found(Path(f"{path}:base"), Path(f"{path}:tst"))
    (one,) = compared.comparisons
    assert one.equal_steps is not None
    assert one.equal_steps.loss_difference.value == pytest.approx(-0.1, abs=1e-6)
    for sides in ((path, path), (path, Path(f"{path}:tst")), (Path(f"{path}:base"),) * 2):
        with pytest.raises(UserError, match=rf"{ITSELF}.* of an export as FILE.csv:RUN"):
            found(*sides)


def test_runs_that_tell_no_settings_are_said_to_be_taken_for_seeds(tmp_path: Path):
    path = both(tmp_path)
    compared = found(
        export(tmp_path, "other", {step: loss + 1 for step, loss in BASE.items()}), path
    )
    (note,) = (note for note in compared.notes if "taken for seeds" in note)
    assert note.startswith('The runs of "candidate" (base, tst) do not all tell their settings')


def test_forced_it_is_compared_and_said(tmp_path: Path):
    path = both(tmp_path)
    compared = found(Path(f"{path}:tst"), Path(f"{path}:tst"), force=True)
    assert ITSELF in compared.reasons[0]
    (one,) = compared.comparisons
    assert one.equal_steps is not None
    assert one.equal_steps.loss_difference.value == 0


@pytest.mark.parametrize("other", [events, export])
def test_on_one_side_it_counts_once(tmp_path: Path, other: Any):
    (run,) = read_runs([other(tmp_path, "there", TST), ledger(tmp_path, "here", TST)])
    assert run.source == "ledger"
    assert "there" in run.notes[-1]


def test_the_final_loss_is_the_same_from_ledger_and_tensorboard(tmp_path: Path):
    """Megatron evaluates at the last step, after it on other samples, and on the test set."""
    ends = [
        read_runs([source(tmp_path, source.__name__, TST)])[0].curve.losses[-1]
        for source in (ledger, events)
    ]
    assert ends == [TST[100], TST[100]]
