"""Real event files, written with PyTorch's writer as Megatron writes them."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from tst_megatron.analysis.compare.stories import vocabulary, words_of
from tst_megatron.errors import UserError
from tst_megatron.runs.inputs import read_runs
from tst_megatron.runs.run import RecordedRun
from tst_megatron.runs.spans import Span
from tst_megatron.runs.stages import Stage

BATCH_SIZE, SEQ_LENGTH, RANKS = 4, 128, 8
FLAGS = {
    "train_iters": 100,
    "global_batch_size": BATCH_SIZE,
    "seq_length": SEQ_LENGTH,
    "world_size": RANKS,
    "seed": 5,
    "lr": 2e-3,
    "split": "98,2,0",
    "lr_decay_style": "WSD",
    "lr_wsd_decay_iters": 10,
    "data_path": ["/a/corpus"],
    "num_experts": None,
    "num_attention_heads": 4,
    "num_query_groups": 1,
    "group_query_attention": False,
}


class Written:
    """One start of a run."""

    def __init__(self, folder: Path, flags: Mapping[str, Any] = FLAGS, opened: float = 0.0):
        self.writer = SummaryWriter(folder, filename_suffix=f".{opened:09.0f}")
        self.opened = time.time()
        self.samples = 0
        for name, value in flags.items():
            self.writer.add_text(name, str(value), global_step=0)

    def scalar(self, tag: str, step: int, value: float, clock: float, samples: bool = True) -> None:
        self.writer.add_scalar(tag, value, step, walltime=self.opened + clock)
        if samples:
            self.writer.add_scalar(
                f"{tag} vs samples", value, step * BATCH_SIZE, walltime=self.opened + clock
            )

    def steps(self, first: int, last: int, *, loss: str = "lm loss", clock: float = 10.0) -> None:
        for step in range(first, last + 1):
            now = clock + step - first
            self.scalar("learning-rate", step, 1.0 if step <= 90 else 0.5, now)
            self.scalar(loss, step, 5 - step / 100, now)
            self.scalar("grad-norm", step, 0.25, now)
            self.scalar("load_balancing_loss", step, 1.5, now, samples=False)
            if step % 20 == 0:
                self.scalar("lm loss validation", step, 4 - step / 100, now + 0.5)


def read(folder: Path) -> RecordedRun:
    return read_runs([folder], vocabulary())[0]


def stages(run: RecordedRun) -> list[tuple[int, str, int, int]]:
    def short(span: Span) -> tuple[int, str, int, int]:
        return (span.index, span.stage.name, span.first_step, span.last_step)

    return [short(span) for span in run.stages]


def test_megatrons_own_folder(tmp_path: Path):
    folder = tmp_path / "base" / "tensorboard"
    start = Written(folder)
    start.steps(1, 100)
    # The test set's loss comes last and under the same tag.
    start.scalar("lm loss validation", 100, 9.0, 120.0)
    start.writer.close()
    run = read(folder)
    assert (run.name, run.path, run.source) == ("base", folder, "tensorboard")
    assert (run.num_steps, run.decay_start) == (100, 90)
    # It does not tell by what it was trained.
    assert stages(run) == []
    assert not run.tells_methods
    assert run.header["flags"] == FLAGS
    assert run.header["seed"] == 5
    np.testing.assert_array_equal(run.curve.steps, [20, 40, 60, 80, 100])
    np.testing.assert_allclose(run.curve.losses, [3.8, 3.6, 3.4, 3.2, 3.0], rtol=1e-6)
    np.testing.assert_array_equal(run.curve.positions, run.curve.steps * BATCH_SIZE * SEQ_LENGTH)
    assert np.isnan(run.curve.data_tokens).all()
    # The event file was opened a little before its first event.
    np.testing.assert_allclose(run.curve.wall_clock_s, run.curve.steps + 9.5, atol=5.0)
    np.testing.assert_allclose(run.curve.gpu_hours, run.curve.wall_clock_s * RANKS / 3600)
    assert np.isnan(run.curve.flops).all()
    assert np.isnan(run.curve.stderrs).all()
    np.testing.assert_allclose(run.steps.losses, 5 - run.steps.steps / 100, rtol=1e-6)
    np.testing.assert_array_equal(run.steps.extras["load_balancing_loss"], 1.5)
    np.testing.assert_array_equal(run.steps.grad_norms, 0.25)


SAVED = {"stages": [(4, 120)], "superpose": "both"}
TOLD = {
    "stages": [
        Stage("bags of 4", 120, 4, "bag loss", "superposition", {"bag_size": 4}).as_json(),
        Stage("single tokens", 280, facts={"bag_size": 1}).as_json(),
    ],
    "facts": SAVED,
}


@pytest.mark.parametrize(
    # Without its arguments the bags that it logged tell.
    "told",
    [{"tst_superposition": SAVED}, {"methods": {"superposition": TOLD}}, {}],
)
def test_our_own_scalars(tmp_path: Path, told: dict[str, Any]):
    start = Written(tmp_path / "tst", FLAGS | told)
    start.steps(1, 30, loss="bag loss")
    start.steps(31, 100, clock=60.0)
    tokens = 0
    for step in range(1, 101):
        tokens += BATCH_SIZE * SEQ_LENGTH * (4 if step <= 30 else 1)
        for tag, value in (
            ("bag-size", 4 if step <= 30 else 1),
            ("stage", int(step > 30)),
            ("positions", step * BATCH_SIZE * SEQ_LENGTH),
            ("data-tokens", tokens),
            ("flops", step * 1e9),
            ("gpu-hours", step / 10),
            ("compute-seconds", 0.5),
        ):
            start.scalar(tag, step, value, 200.0, samples=False)
    start.scalar("lm loss validation stderr", 40, 0.01, 200.0, samples=False)
    start.writer.close()
    run = read(tmp_path / "tst")
    assert words_of(run) == "bags of 4 for 30 %"
    np.testing.assert_allclose(run.curve.flops, run.curve.steps * 1e9, rtol=1e-6)
    np.testing.assert_allclose(run.curve.gpu_hours, run.curve.steps / 10, rtol=1e-6)
    np.testing.assert_allclose(run.curve.stderrs, [np.nan, 0.01, np.nan, np.nan, np.nan], 1e-6)
    np.testing.assert_array_equal(run.steps.compute_s, 0.5)
    assert stages(run) == [(0, "bags of 4", 1, 30), (1, "single tokens", 31, 100)]
    assert run.steps.loss_names[29:31] == ("bag loss", "lm loss")
    assert run.curve.data_tokens[-1] == tokens
    np.testing.assert_array_equal(run.curve.data_tokens[:1], [20 * 4 * 512])


@pytest.mark.parametrize(
    "told", [{"tst_superposition": SAVED}, {"methods": {"superposition": TOLD}}]
)
def test_a_run_that_was_cut_short_is_called_as_a_whole_one(tmp_path: Path, told: dict[str, Any]):
    start = Written(tmp_path / "cut", FLAGS | told)
    start.steps(1, 20, loss="bag loss")
    start.writer.close()
    assert words_of(read(tmp_path / "cut")) == "bags of 4 for 30 %"


@pytest.mark.parametrize("told", [{"tst_superposition": None}, {"methods": {}}])
def test_a_run_that_tells_that_it_is_ordinary(tmp_path: Path, told: dict[str, Any]):
    start = Written(tmp_path / "base", FLAGS | told)
    start.steps(1, 100)
    start.writer.close()
    run = read(tmp_path / "base")
    assert stages(run) == [(0, "single tokens", 1, 100)]
    np.testing.assert_array_equal(run.curve.data_tokens, run.curve.positions)


def test_the_first_evaluation_at_a_step_counts(tmp_path: Path):
    """At the last one Megatron validates once more, and so does a start that has nothing to do."""
    start = Written(tmp_path)
    start.steps(1, 100)
    for again, loss in enumerate((3.25, 9.0), start=1):
        start.scalar("lm loss validation", 100, loss, 120.0 + again)
    start.writer.close()
    idle = Written(tmp_path, opened=1.0)
    idle.scalar("lm loss validation", 100, 3.5, 5.0)
    idle.writer.close()
    run = read(tmp_path)
    np.testing.assert_allclose(run.curve.losses[-1], 3.0)
    np.testing.assert_array_equal(run.steps.steps, np.arange(1, 101))


def test_its_hours_say_what_they_hold(tmp_path: Path):
    start = Written(tmp_path)
    start.steps(1, 40)
    start.writer.close()
    assert any("start-up before that" in note for note in read(tmp_path).notes)


def test_hours_that_were_logged_are_not_mixed_with_others(tmp_path: Path):
    """Those of the file hold less, so the run seemed to go back in time."""
    start = Written(tmp_path)
    start.steps(1, 40)
    start.scalar("gpu-hours", 20, 50.0, 15.0, samples=False)
    start.writer.close()
    np.testing.assert_array_equal(read(tmp_path).curve.gpu_hours, [50.0, np.nan])


def test_a_clock_before_the_file_was_opened_is_refused(tmp_path: Path):
    start = Written(tmp_path)
    start.steps(1, 40, clock=-3600.0)
    start.writer.close()
    with pytest.raises(UserError, match=r"its clock in seconds is -3[56]\d\d.* at step 1, and"):
        read(tmp_path)


def test_a_held_out_loss_of_another_name(tmp_path: Path):
    start = Written(tmp_path)
    for step in (10, 20):
        start.scalar("learning-rate", step, 1.0, step)
        start.scalar("val_loss", step, 4 - step / 100, step)
        start.scalar("val_loss", step, 9.0, step)
    start.writer.close()
    (run,) = read_runs([tmp_path], loss_columns=["val_loss"])
    np.testing.assert_allclose(run.curve.losses, [3.9, 3.8], rtol=1e-6)
    assert 'Its held-out loss is what it calls "val_loss".' in run.notes
    assert "val_loss" not in run.steps.extras
    with pytest.raises(
        UserError, match=r'has no scalar "lm loss validation": it has "val_loss", "learning-rate"; '
    ):
        read(tmp_path)


def test_later_starts_replay_and_time_between_them_does_not_count(tmp_path: Path):
    first = Written(tmp_path)
    first.steps(1, 50)
    first.writer.close()
    second = Written(tmp_path, opened=1.0)
    second.opened += 10_000.0
    second.writer.add_scalar("learning-rate", 1.0, 41, walltime=second.opened)
    second.steps(41, 60)
    second.writer.close()
    run = read(tmp_path)
    np.testing.assert_array_equal(run.steps.steps, np.arange(1, 61))
    assert (np.diff(run.steps.wall_clock_s) >= 0).all()
    # 60 s of the first, 30 s of the second, which seems opened 10,000 s before its first event.
    assert run.steps.wall_clock_s[39] == pytest.approx(49, abs=5)
    np.testing.assert_array_equal(run.curve.steps, [20, 40, 60])


def test_arguments_are_not_needed(tmp_path: Path):
    start = Written(tmp_path, {})
    start.steps(1, 40)
    start.writer.close()
    run = read(tmp_path)
    assert run.header["flags"] == {}
    assert run.num_steps == 40
    assert np.isnan(run.curve.positions).all()
    assert np.isnan(run.curve.gpu_hours).all()


def test_a_ramp_of_the_batch_is_in_the_samples(tmp_path: Path):
    start = Written(tmp_path, FLAGS | {"rampup_batch_size": ["2", "2", "100"]})
    for step, samples in ((10, 20), (20, 60)):
        for tag in ("lm loss", "lm loss validation"):
            start.writer.add_scalar(tag, 3.0, step)
            start.writer.add_scalar(f"{tag} vs samples", 3.0, samples)
    start.writer.close()
    np.testing.assert_array_equal(read(tmp_path).curve.positions, [20 * 128, 60 * 128])


def test_a_validation_set_by_its_name(tmp_path: Path):
    start = Written(tmp_path)
    for tag in ("lm loss validation-web", "lm loss validation-code", "lm loss validation-web ppl"):
        start.scalar(tag, 20, 3.0 if "code" in tag else 2.0, 5.0)
    start.writer.close()
    run = read(tmp_path)
    np.testing.assert_array_equal(run.curve.losses, [3.0])
    assert any("Of several validation sets" in note for note in run.notes)


def test_a_loss_that_is_no_number_stays(tmp_path: Path):
    start = Written(tmp_path)
    start.steps(1, 40)
    start.scalar("lm loss validation", 60, float("nan"), 70.0)
    start.writer.close()
    np.testing.assert_allclose(read(tmp_path).curve.losses, [3.8, 3.6, np.nan], rtol=1e-6)


def test_an_event_file_that_was_cut_reads_up_to_there(tmp_path: Path):
    start = Written(tmp_path)
    start.steps(1, 40)
    start.writer.close()
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    file.write_bytes(content[: len(content) - 1000])
    run = read_runs([file])[0]
    assert 30 < run.steps.steps[-1] < 40


def test_two_runs_in_one_folder(tmp_path: Path):
    for seed in (1, 2):
        start = Written(tmp_path, FLAGS | {"seed": seed}, opened=seed)
        start.steps(1, 5)
        start.writer.close()
    with pytest.raises(UserError, match="holds two runs: seed is 1 in"):
        read(tmp_path)


def test_a_run_that_was_made_longer(tmp_path: Path):
    for opened, (length, first) in enumerate([(100, 1), (200, 91)]):
        start = Written(tmp_path, FLAGS | {"train_iters": length}, opened)
        start.steps(first, length)
        start.writer.close()
    run = read(tmp_path)
    assert run.num_steps == 200
    np.testing.assert_array_equal(run.steps.steps, range(1, 201))


def test_a_longer_run_that_begins_anew_is_another(tmp_path: Path):
    for length in (100, 200):
        start = Written(tmp_path, FLAGS | {"train_iters": length}, opened=length)
        start.steps(1, length)
        start.writer.close()
    with pytest.raises(UserError, match=r"holds two runs, or one that was begun anew: .* step 1,"):
        read(tmp_path)


def test_no_scalars(tmp_path: Path):
    Written(tmp_path).writer.close()
    with pytest.raises(UserError, match="has no scalars"):
        read(tmp_path)


def logged(folder: Path, opened: float, scalars: dict[str, dict[int, float]]) -> None:
    """A start of another program, which tells no arguments."""
    start = Written(folder, {}, opened)
    for tag, by_step in scalars.items():
        for step, value in by_step.items():
            start.scalar(tag, step, value, 10.0 + step / 100, samples=False)
    start.writer.close()


def losses(steps: range, value: float) -> dict[int, float]:
    return dict.fromkeys(steps, value)


@pytest.mark.parametrize("tag", ["eval/loss", "lm loss validation"])
def test_a_held_out_loss_alone_is_replayed(tmp_path: Path, tag: str):
    """The earlier start's values stayed, as a second evaluation at their steps does not count."""
    logged(tmp_path, 0.0, {tag: losses(range(50, 1201, 50), 4.0)})
    logged(tmp_path, 1.0, {tag: losses(range(1050, 1501, 50), 3.0)})
    (run,) = read_runs([tmp_path], loss_columns=[tag] if tag == "eval/loss" else [])
    np.testing.assert_array_equal(run.curve.losses, [4.0] * 20 + [3.0] * 10)
    (note,) = (note for note in run.notes if "goes back" in note)
    assert "goes back to step 1,050: 4 steps that were logged before, up to 1,200, are" in note


def test_a_start_that_evaluates_alone_replays_nothing(tmp_path: Path):
    """Whatever else it logs of its evaluation."""
    tags = ("train/loss", "eval/loss", "eval/ppl")
    logged(tmp_path, 0.0, {tag: losses(range(50, 2001, 50), 4.0) for tag in tags})
    logged(tmp_path, 1.0, {tag: {2000: 1.0} for tag in tags[1:]})
    (run,) = read_runs([tmp_path], loss_columns=["eval/loss"])
    np.testing.assert_array_equal(run.curve.losses, [4.0] * 40)


@pytest.mark.parametrize("last", [800, 2000, 3000])
def test_two_runs_that_tell_no_arguments_in_one_folder(tmp_path: Path, last: int):
    """The first was thrown away."""
    for opened, end in enumerate((2000, last)):
        steps = range(50, end + 1, 50)
        logged(
            tmp_path, opened, {tag: losses(steps, 4.0) for tag in ("lm loss", "lm loss validation")}
        )
    with pytest.raises(UserError, match=r"holds two runs, or one that was begun anew: .* step 50,"):
        read(tmp_path)


def test_damage_is_noted(tmp_path: Path):
    start = Written(tmp_path)
    start.steps(1, 40)
    start.writer.close()
    assert not any("damaged" in note for note in read(tmp_path).notes)
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) * 3 // 4] ^= 0xFF
    file.write_bytes(content)
    run = read(tmp_path)
    assert run.steps.steps[-1] < 40
    assert any(f"{file.name} is damaged or was cut off" in note for note in run.notes)


def test_a_step_below_0_is_refused(tmp_path: Path):
    logged(tmp_path, 0.0, {"lm loss validation": {-5: 3.0, 20: 4.0}})
    with pytest.raises(UserError, match="a step is -5, and steps are 0 or more"):
        read(tmp_path)
