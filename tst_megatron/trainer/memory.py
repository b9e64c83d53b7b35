"""What checkpoints remember of a run's methods: with Megatron's arguments, which they carry anyway.

The one idea: a resume under other settings is told from the same run before any process group, by
what each method says of itself; there is nothing else to save or to compare.
"""

import argparse
import logging
from pathlib import Path

from megatron.core import dist_checkpointing
from megatron.training.checkpointing import get_checkpoint_name, get_checkpoint_tracker_filename

from tst_megatron.methods.method import Run
from tst_megatron.methods.registry import methods

logger = logging.getLogger(__name__)


def remember(args: argparse.Namespace, run: Run) -> None:
    """Let every later checkpoint carry what the methods are at now."""
    args.methods = {
        part.name: {
            "stages": [stage.as_json() for stage in part.stages],
            "facts": part.saved(),
        }
        for part in run.parts
    }


def check_resume(args: argparse.Namespace, run: Run) -> argparse.Namespace | None:
    """Let every method go on from the checkpoint that is to be loaded, if there is one.

    Args:
        args: Megatron's validated arguments.
        run: what the run's methods make of it.

    Returns:
        The checkpoint's arguments; None where there is none, or one that the run begins anew from.

    Raises:
        UserError: a method says that it is not the same run.
    """
    if args.load is None or args.finetune:
        return None
    step, saved = _saved_arguments(args)
    if saved is None:
        return None
    parts = {part.name: part for part in run.parts}
    for method in methods():
        before = method.remembered(saved)
        if method.name in parts:
            parts[method.name].resume(args, before, step)
        elif before is not None and args.rank == 0:
            # Without the method's flags the run is Megatron's own, and so may be meant.
            logger.warning("The checkpoint in %s %s.", args.load, method.goes_on_without(before))
    return saved if step else None


def _saved_arguments(args: argparse.Namespace) -> tuple[int, argparse.Namespace | None]:
    """Step and arguments of the checkpoint that Megatron would load; None where there is none."""
    tracker = Path(get_checkpoint_tracker_filename(args.load))
    if not tracker.is_file():
        return 0, None
    text = tracker.read_text().strip()
    step = int(args.ckpt_step) if args.ckpt_step else (int(text) if text.isdigit() else 0)
    folder = get_checkpoint_name(args.load, step, release=text == "release", return_base_dir=True)
    if not Path(folder).is_dir() or not dist_checkpointing.check_is_distributed_checkpoint(folder):
        return step, None
    return step, dist_checkpointing.load_common_state_dict(folder).get("args")
