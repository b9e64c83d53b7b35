"""Which checkpoint is gone on from, and what is refused in place of a run that begins anew."""

import io
import shutil
from pathlib import Path

import pytest
import torch
from counted_corpora import parse
from megatron.core.dist_checkpointing import core
from megatron.training.checkpointing import (
    _NON_PERSISTENT_CKPT_SUBDIR,
    get_checkpoint_name,
    get_checkpoint_tracker_filename,
)
from torch.distributed import checkpoint as dcp

from tst_megatron.checkpoints.steps import TRACKER, Checkpoint, whole_steps
from tst_megatron.errors import UserError
from tst_megatron.trainer import checkpoint_choice
from tst_megatron.trainer.checkpoint_choice import check_load, checkpoint_of, is_converted

DATA = "__0_0.distcp"


def save(root: Path, step: int) -> Path:
    """A step as Megatron writes it, but for the tracker."""
    folder = Checkpoint(root, step).folder
    state = {"weight": torch.ones(10), "common_state/shard_0_1": io.BytesIO(b"")}
    dcp.save(state, checkpoint_id=folder, no_dist=True)
    core.save_config(core.CheckpointingConfig("torch_dist"), str(folder))
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Steps 10, 20 and 30, of which the last is tracked."""
    root = tmp_path / "checkpoints"
    for step in (10, 20, 30):
        save(root, step)
    (root / TRACKER).write_text("30")
    return root


def check(*flags: str, looks_at_files: bool = True) -> None:
    check_load(parse(*flags), looks_at_files)


def test_names_are_megatrons() -> None:
    root = Path("root")
    assert str(root / TRACKER) == get_checkpoint_tracker_filename("root")
    for step in (7, 12_345_678):
        named = get_checkpoint_name("root", step, return_base_dir=True)
        assert str(Checkpoint(root, step).folder) == named
    named = get_checkpoint_name("root", 0, release=True, return_base_dir=True)
    assert str(Checkpoint(root, None).folder) == named
    assert checkpoint_choice._NON_PERSISTENT == _NON_PERSISTENT_CKPT_SUBDIR
    ranks = parse("--tensor-model-parallel-size=2", "--pipeline-model-parallel-size=2")
    assert checkpoint_choice._rank_folders(ranks) == [
        Path(
            get_checkpoint_name(
                "root",
                1,
                pipeline_parallel=True,
                tensor_rank=rank,
                pipeline_rank=stage,
                expert_parallel=False,
                expert_rank=0,
            )
        ).parent.name
        for rank in range(2)
        for stage in range(2)
    ]


def test_the_tracked_step_or_the_one_that_is_named(root: Path) -> None:
    assert checkpoint_of(parse(f"--load={root}")) == Checkpoint(root, 30)
    assert checkpoint_of(parse(f"--load={root}", "--ckpt-step=20")) == Checkpoint(root, 20)
    assert checkpoint_of(parse()) is None
    (root / TRACKER).write_text(" 20\n")
    assert checkpoint_of(parse(f"--load={root}")) == Checkpoint(root, 20)
    (root / TRACKER).write_text("release")
    assert checkpoint_of(parse(f"--load={root}")) == Checkpoint(root, None)


@pytest.mark.parametrize(
    "text", ["", " \n", "thirty", "-30", "+30", "3_0", "3e1", "30.0", "٣٠", "30 20", "\0\0"]
)
@pytest.mark.parametrize("more", [(), ("--ckpt-step=20",), ("--finetune",)])
def test_a_tracker_is_one_number(root: Path, text: str, more: tuple[str, ...]) -> None:
    (root / TRACKER).write_text(text)
    with pytest.raises(UserError) as refused:
        check(f"--load={root}", f"--save={root}", *more)
    sentence = str(refused.value)
    assert sentence.startswith(f"{root / TRACKER} {'says' if text.strip() else 'is empty'}")
    assert f"steps 30, 20, 10 of it are whole: write 30 into {root / TRACKER}" in sentence


def test_bytes_that_are_no_text(root: Path) -> None:
    (root / TRACKER).write_bytes(b"\xff\xfe3\x000\x00")
    with pytest.raises(UserError, match="where the number of a step should be"):
        check(f"--load={root}")


@pytest.mark.parametrize("more", [(), ("--finetune",), ("--ckpt-step=30",)])
def test_a_step_that_is_not_whole(root: Path, more: tuple[str, ...]) -> None:
    whole = (root / "iter_0000030" / DATA).read_bytes()
    (root / "iter_0000030" / DATA).write_bytes(whole[:-1])
    (root / "iter_0000020/.metadata").unlink()
    with pytest.raises(UserError) as refused:
        check(f"--load={root}", f"--save={root}", *more)
    sentence = str(refused.value)
    assert f"iter_0000030/{DATA} has {len(whole) - 1:,} of {len(whole):,} bytes" in sentence
    assert "step 10 of it is whole" in sentence
    assert ("--ckpt-step 10" in sentence) == (more == ("--ckpt-step=30",))
    # One that is being written, or was left so, is no fault of the step before it.
    check(f"--load={root}", "--ckpt-step=10")


def test_a_step_that_is_not_there(root: Path) -> None:
    shutil.rmtree(root / "iter_0000030")
    for looks in (True, False):
        with pytest.raises(UserError, match="no folder iter_0000030; steps 20, 10 of it are whole"):
            check(f"--load={root}", looks_at_files=looks)
    for step in (10, 20):
        shutil.rmtree(root / f"iter_00000{step}")
    with pytest.raises(UserError, match="no step there is whole: name another folder, or move"):
        check(f"--load={root}")


def test_only_the_first_rank_looks_at_files(root: Path) -> None:
    (root / "iter_0000030" / DATA).unlink()
    check(f"--load={root}", looks_at_files=False)


def test_a_tracker_that_is_gone(root: Path) -> None:
    (root / TRACKER).unlink()
    for more in ((), (f"--save={root}",), ("--finetune",), ("--exit-on-missing-checkpoint",)):
        with pytest.raises(UserError, match=r"begin at step 1 over them: .* write 30 into"):
            check(f"--load={root}", *more)
    assert checkpoint_of(parse(f"--load={root}", "--ckpt-step=10")) == Checkpoint(root, 10)


def test_a_run_that_was_ended_in_its_first_save_begins_again(tmp_path: Path) -> None:
    folder = save(tmp_path, 10)
    (folder / "metadata.json").unlink()
    assert whole_steps(tmp_path, 1) == []
    check(f"--load={tmp_path}", f"--save={tmp_path}")


def test_where_a_run_may_begin(tmp_path: Path) -> None:
    load, save_there = f"--load={tmp_path / 'none'}", f"--save={tmp_path}/./none"
    check(load, save_there)
    for more, says in (
        ((save_there, "--exit-on-missing-checkpoint"), "-missing-checkpoint asks for one"),
        ((save_there, "--finetune"), "the run starts from one"),
        ((f"--save={tmp_path / 'other'}",), "nor will this run save one there"),
        ((), "nor will this run save one there"),
    ):
        with pytest.raises(UserError, match=says):
            check(load, *more)
    with pytest.raises(UserError, match="--finetune has nothing to start from"):
        check("--finetune")


def test_steps_that_none_is_saved_at(root: Path) -> None:
    for step in (0, -1):
        with pytest.raises(UserError, match=f"--ckpt-step {step} is no step"):
            check(f"--load={root}", f"--ckpt-step={step}")
    (root / TRACKER).write_text("release")
    with pytest.raises(UserError, match="Megatron would load the release"):
        check(f"--load={root}", "--ckpt-step=10")


def test_a_pretrained_checkpoint(root: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    flags = (f"--load={own}", f"--save={own}", f"--pretrained-checkpoint={root}")
    assert checkpoint_of(parse(*flags)) == Checkpoint(root, 30, is_pretrained=True)
    save(own, 5)
    with pytest.raises(UserError, match=f"--load {own} has steps and no"):
        check(*flags)
    (own / TRACKER).write_text("5")
    assert checkpoint_of(parse(*flags)) == Checkpoint(own, 5)
    (own / "iter_0000005" / DATA).unlink()
    with pytest.raises(UserError, match=f"{DATA} is missing"):
        check(*flags)
    with pytest.raises(UserError, match=f"--pretrained-checkpoint {tmp_path} holds no checkpoint"):
        check(f"--pretrained-checkpoint={tmp_path}")


def test_non_persistent_checkpoints(root: Path) -> None:
    brief = root / "non_persistent"
    flags = (f"--load={root}", "--non-persistent-ckpt-type=global")
    assert checkpoint_of(parse(*flags)) == Checkpoint(root, 30)
    save(brief, 35)
    (brief / TRACKER).write_text("35")
    assert checkpoint_of(parse(*flags)) == Checkpoint(brief, 35)
    with pytest.raises(UserError, match="--ckpt-step 20 is older than the non-persistent"):
        check(*flags, "--ckpt-step=20")
    (brief / TRACKER).write_text("release")
    with pytest.raises(UserError, match="which no non-persistent checkpoint is"):
        check(*flags)
    (brief / TRACKER).write_text("25")
    assert checkpoint_of(parse(*flags)) == Checkpoint(root, 30)


@pytest.mark.parametrize("is_named", [False, True])
def test_a_tracker_of_non_persistent_ones_that_is_gone(
    root: Path, tmp_path: Path, is_named: bool
) -> None:
    brief = tmp_path / "brief" if is_named else root / "non_persistent"
    flags = [f"--load={root}", f"--save={root}", "--non-persistent-ckpt-type=global"]
    if is_named:
        flags.append(f"--non-persistent-global-ckpt-dir={brief}")
    save(brief, 25)
    # Older than what the run goes on from, so that nothing is lost with it.
    check(*flags)
    save(brief, 35)
    with pytest.raises(UserError, match=rf"at step 31: .* write 35 into {brief / TRACKER}"):
        check(*flags)
    check(*flags, "--ckpt-step=20")
    for step in (10, 20, 30):
        shutil.rmtree(Checkpoint(root, step).folder)
    (root / TRACKER).unlink()
    with pytest.raises(UserError, match=rf"at step 1: .* write 35 into {brief / TRACKER}"):
        check(*flags)
    # Nor is there one where they are not asked for.
    check(*flags[:2])


def test_what_is_left_to_megatron_is_said(tmp_path: Path, caplog) -> None:
    assert checkpoint_of(parse("--load=msc://bucket/run")) is None
    check("--load=msc://bucket/run", "--enable-msc", "--exit-on-missing-checkpoint")
    assert "--load msc://bucket/run is in object storage, which Megatron alone" in caplog.text
    local = ("--non-persistent-ckpt-type=local", f"--non-persistent-local-ckpt-dir={tmp_path}")
    check(f"--load={tmp_path}", *local)
    assert f"checkpoint may be newer than --load {tmp_path}" in caplog.text


@pytest.mark.parametrize("flag", ["--load", "--save", "--pretrained-checkpoint"])
def test_object_storage_without_its_client_is_no_folder(flag: str) -> None:
    with pytest.raises(UserError, match=rf"{flag} s3://bucket/run is in object storage.*add it"):
        check(f"{flag}=s3://bucket/run")


def test_a_format_that_is_not_the_runs(root: Path) -> None:
    with pytest.raises(UserError, match="--ckpt-format torch does not read"):
        check(f"--load={root}", "--ckpt-format=torch")
    check(f"--load={root}", "--ckpt-format=torch", "--auto-detect-ckpt-format")


def test_a_conversion_is_done_when_its_tracker_says_so(tmp_path: Path) -> None:
    args = parse("--ckpt-convert-format=torch", f"--ckpt-convert-save={tmp_path}")
    args.iteration, new = 30, tmp_path / "torch"
    save(new, 30)
    (new / TRACKER).write_text("30")
    assert not is_converted(args), "of an earlier start"
    args.save = str(new)
    assert is_converted(args)
    (new / TRACKER).write_text("20")
    assert not is_converted(args)
    args.rank = 1
    assert is_converted(args)
    assert not is_converted(parse(f"--save={new}"))
