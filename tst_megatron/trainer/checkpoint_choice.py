"""Which checkpoint a run goes on from, told before Megatron looks for it; and whether it can.

The one idea: Megatron takes what it cannot find for a run that begins, and leaves with code 0 over
what it cannot read. So its choice (``load_checkpoint`` and ``_load_base_checkpoint`` in
megatron/training/checkpointing.py) is made here first, from flags and trackers, and refused where
the user must have meant something else.
"""

import argparse
import logging
import os
from itertools import product
from pathlib import Path

from tst_megatron.checkpoints.steps import (
    RELEASE,
    TRACKER,
    Checkpoint,
    read_tracker,
    way_on,
    whole_steps,
)
from tst_megatron.checkpoints.wholeness import CONFIG, fault_of
from tst_megatron.corpora.blend import is_remote
from tst_megatron.errors import UserError
from tst_megatron.methods.registry import methods

logger = logging.getLogger(__name__)

_NON_PERSISTENT = "non_persistent"


def checkpoint_of(args: argparse.Namespace) -> Checkpoint | None:
    """The checkpoint that Megatron will load; None for none, or for one it looks for elsewhere.

    Args:
        args: Megatron's flags, validated or not.

    Raises:
        UserError: flags and trackers name what cannot be a checkpoint, or another than is meant.
    """
    if args.ckpt_step is not None and args.ckpt_step < 1:
        # Megatron takes 0 for no flag at all, and what is below it for no checkpoint.
        raise UserError(
            f"--ckpt-step {args.ckpt_step} is no step that is saved: name one, or leave the flag "
            "out for the last"
        )
    flag, root = _root_of(args)
    if root is None:
        return None
    found = _persistent(args, flag, root)
    brief = _non_persistent(args, root)
    if brief is None or found is None:
        return found or brief
    if args.ckpt_step is not None and _number(brief) > args.ckpt_step:
        raise UserError(
            f"--ckpt-step {args.ckpt_step} is older than the non-persistent checkpoint of step "
            f"{brief.step} in {brief.root}, which Megatron would load: move that away"
        )
    return brief if _number(brief) >= _number(found) else found


def goes_on_flags(args: argparse.Namespace) -> list[str]:
    """Flags by which a run starts from another one's checkpoint, and then goes on from its own.

    Args:
        args: Megatron's flags, with ``--load-once`` or a method's that starts so; of any other run
            there are none.
    """
    starting = [one for one in methods() if one.starts_from_another and one.is_on(args)]
    starts = [start for method in starting if (start := method.starts_from(args)) is not None]
    begin = [f"--load={start}" for start in starts]
    if args.save is None or is_remote(args.save):
        return begin
    if not starts:
        if args.load is None or not (args.load_once or starting):
            return []
        if os.path.realpath(args.save) == os.path.realpath(args.load):
            return []
    step = read_tracker(Path(args.save))
    if args.non_persistent_ckpt_type == "global":
        # It lies under its own number, which Megatron takes before any other.
        brief = read_tracker(_non_persistent_folder(args, Path(args.save)))
        numbers = [int(one) for one in (step, brief) if one is not None and one.isdecimal()]
        step = str(max(numbers)) if numbers else step
    if step is None:
        return begin
    # It may have been another step that the run started from.
    number = [] if args.ckpt_step is None else [f"--ckpt-step={step}"]
    return [f"--load={args.save}", *number]


def exit_flags(args: argparse.Namespace) -> list[str]:
    """Megatron's flag for ``--exit-after-step``: the step is the first of its multiples that a run
    comes by, as one that has it is not trained on (`has_ended`).
    """
    step = args.exit_after_step
    return [] if step is None else [f"--exit-interval={step}"]


def has_ended(args: argparse.Namespace) -> bool:
    """Whether the run has its last checkpoint, that of ``--exit-after-step``, so that there is
    nothing to train: Megatron would, up to the next multiple.

    Args:
        args: Megatron's flags, with those of `goes_on_flags`.
    """
    if args.exit_after_step is None or args.load is None or is_remote(args.save):
        return False
    if os.path.realpath(args.save) != os.path.realpath(args.load):
        return False
    chosen = checkpoint_of(args)
    return chosen is not None and _number(chosen) >= args.exit_after_step


def check_load(args: argparse.Namespace, looks_at_files: bool) -> None:
    """Check that a run can go on from the checkpoint that its flags name, or may begin.

    Args:
        args: Megatron's flags, validated or not.
        looks_at_files: whether to hold every file of the checkpoint against its list, a look at
            each one's length, rather than to see that tracker and folder are there.

    Raises:
        UserError: it cannot.
    """
    _check_object_storage(args)
    chosen = checkpoint_of(args)
    if looks_at_files:
        _say_what_is_left_to_megatron(args)
        _check_tracker_is_not_lost(args, chosen)
    if chosen is None:
        _check_that_it_may_begin(args)
        return
    if looks_at_files or not chosen.folder.is_dir():
        fault = fault_of(chosen.folder, _rank_folders(args))
        if fault is not None:
            raise UserError(
                f"the checkpoint to go on from in {chosen.root} is not whole: {fault}; "
                f"{way_on(chosen.root, args.ckpt_step is not None)}"
            )
    is_of_torch = args.ckpt_format == "torch" and not args.auto_detect_ckpt_format
    if is_of_torch and (chosen.folder / CONFIG).exists():
        raise UserError(
            f"--ckpt-format torch does not read {chosen.folder}, which is of torch_dist: leave the "
            "flag out, or add --auto-detect-ckpt-format"
        )


def is_converted(args: argparse.Namespace) -> bool:
    """Whether the checkpoint of ``--ckpt-convert-format`` is written, after which Megatron leaves.

    Args:
        args: Megatron's own. It points ``save`` at the new folder as it begins to write, and leaves
            after a barrier (``setup_model_and_optimizer`` in megatron/training/training.py).
    """
    if args.ckpt_convert_format is None:
        return False
    folder = Path(args.ckpt_convert_save, args.ckpt_convert_format)
    if args.save is None or Path(args.save) != folder:
        return False
    # The first rank alone writes the tracker, which a file server may show to others later.
    is_out_of_sight = args.rank != 0 or is_remote(args.ckpt_convert_save)
    return is_out_of_sight or read_tracker(folder) == str(args.iteration)


def _root_of(args: argparse.Namespace) -> tuple[str, Path | None]:
    """The flag that names the folder, and the folder; None without one on this machine."""
    load, pretrained = args.load, args.pretrained_checkpoint
    if pretrained is not None and not (load and (is_remote(load) or _has_tracker(load))):
        return "--pretrained-checkpoint", None if is_remote(pretrained) else Path(pretrained)
    return "--load", None if load is None or is_remote(load) else Path(load)


def _persistent(args: argparse.Namespace, flag: str, root: Path) -> Checkpoint | None:
    is_pretrained = flag != "--load"
    named = read_tracker(root)
    if args.ckpt_step is None:
        if named is None:
            return None
        return Checkpoint(root, None if named == RELEASE else int(named), is_pretrained)
    if named == RELEASE:
        raise UserError(
            f"--ckpt-step {args.ckpt_step} beside {root / TRACKER}, which says {RELEASE}, and "
            "Megatron would load the release: leave the flag out, or write the step into the file"
        )
    return Checkpoint(root, args.ckpt_step, is_pretrained)


def _non_persistent(args: argparse.Namespace, root: Path) -> Checkpoint | None:
    if args.non_persistent_ckpt_type != "global":
        return None
    folder = _non_persistent_folder(args, root)
    named = read_tracker(folder)
    if named == RELEASE:
        raise UserError(
            f"{folder / TRACKER} says {RELEASE}, which no non-persistent checkpoint is: write the "
            "number of a step into it, or move the folder away"
        )
    return None if named is None else Checkpoint(folder, int(named))


def _non_persistent_folder(args: argparse.Namespace, root: Path) -> Path:
    return Path(args.non_persistent_global_ckpt_dir or root / _NON_PERSISTENT)


def _number(checkpoint: Checkpoint) -> int:
    return checkpoint.step or 0


def _has_tracker(root: str | Path) -> bool:
    return (Path(root) / TRACKER).is_file()


def _check_tracker_is_not_lost(args: argparse.Namespace, chosen: Checkpoint | None) -> None:
    """Without one Megatron begins at step 1, or further back, over the steps that are there."""
    load = args.load
    if load is None or is_remote(load) or args.ckpt_step is not None:
        return
    # A run that was ended in its first save has nothing to lose.
    if not _has_tracker(load) and whole_steps(Path(load), 1):
        raise UserError(
            f"--load {load} has steps and no {TRACKER}, so that Megatron would begin at step 1 "
            f"over them: {way_on(Path(load), by_flag=False)}"
        )
    folder = _non_persistent_folder(args, Path(load))
    if args.non_persistent_ckpt_type != "global" or _has_tracker(folder):
        return
    last = 0 if chosen is None or chosen.is_pretrained else _number(chosen)
    if any(step > last for step in whole_steps(folder, 1)):
        raise UserError(
            f"the non-persistent checkpoints in {folder} have no {TRACKER}, so that Megatron would "
            f"begin at step {last + 1}: {way_on(folder, by_flag=False)}"
        )


def _check_that_it_may_begin(args: argparse.Namespace) -> None:
    """A run that finds no checkpoint begins only where its own ones will be."""
    flag, root = _root_of(args)
    named = args.load or args.pretrained_checkpoint
    if named is None:
        if args.finetune:
            raise UserError("--finetune has nothing to start from: add --load")
        return
    if root is None or args.non_persistent_ckpt_type == "local":
        return
    starting = [one for one in methods() if one.starts_from_another and one.is_on(args)]
    if starting:
        raise UserError(
            f"{starting[0].start_flag(args)} {root} holds no checkpoint (there is no {TRACKER} in "
            "it), and the run starts from one: name the --save folder of the run before"
        )
    what = f"{flag} {root} holds no checkpoint (there is no {TRACKER} in it)"
    if flag != "--load" or args.finetune:
        raise UserError(f"{what}, and the run starts from one: name a folder that holds one")
    if args.exit_on_missing_checkpoint:
        raise UserError(
            f"{what}, and --exit-on-missing-checkpoint asks for one: leave that out to begin anew"
        )
    if args.save is None or os.path.realpath(args.save) != os.path.realpath(root):
        raise UserError(
            f"{what}, nor will this run save one there: name a folder that holds one, or leave "
            "--load out to begin at step 1"
        )


def _check_object_storage(args: argparse.Namespace) -> None:
    """Without its client Megatron takes such a path for a folder here, which is not there."""
    for flag in ("load", "pretrained_checkpoint", "save"):
        path = getattr(args, flag)
        if path is not None and is_remote(path) and not args.enable_msc:
            raise UserError(
                f"--{flag.replace('_', '-')} {path} is in object storage, where Megatron reads and "
                "writes checkpoints with --enable-msc alone: add it"
            )


def _say_what_is_left_to_megatron(args: argparse.Namespace) -> None:
    left = "that its checkpoint is whole and of this schedule and vocabulary is not checked here."
    for flag in ("load", "pretrained_checkpoint"):
        path = getattr(args, flag)
        if path is not None and is_remote(path):
            named = f"--{flag.replace('_', '-')} {path}"
            logger.warning("%s is in object storage, which Megatron alone reads: %s", named, left)
    if args.load is not None and args.non_persistent_ckpt_type == "local":
        logger.warning(
            "A local non-persistent checkpoint may be newer than --load %s, and Megatron alone "
            "looks for it: %s",
            *(args.load, left),
        )


def _rank_folders(args: argparse.Namespace) -> list[str]:
    """What this layout reads of a checkpoint with a file a rank (``get_checkpoint_name``)."""
    if args.use_mp_args_from_checkpoint_args:
        return []
    stages = args.pipeline_model_parallel_size
    return [
        f"mp_rank_{rank:02d}" + (f"_{stage:03d}" if stages > 1 else "")
        for rank, stage in product(range(args.tensor_model_parallel_size), range(stages))
    ]
