"""Flags that any run may have beside Megatron's: what is read, how it is validated and recorded.

Nothing of Megatron's is imported, which takes seconds.
"""

import argparse
from typing import Any

from tst_megatron.errors import UserError
from tst_megatron.stock.unheeded import check_unheeded


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags to a parser, Megatron's or a smaller one."""
    group = parser.add_argument_group(
        title="tst-megatron", description="What a run reads, and what is recorded of it."
    )
    _add_text_arguments(group)
    _add_link_arguments(group)
    _add_record_arguments(group)


def _add_text_arguments(group: Any) -> None:
    """Add the flags that decide which text a run reads, to a parser or to a group of one."""
    group.add_argument(
        "--blend",
        metavar="FILE",
        help="a YAML of sources (path, weight, epochs), in place of Megatron's data paths",
    )
    group.add_argument(
        "--allow-repeats",
        action="store_true",
        help="go on although a stage reads some of its text more than once",
    )


def _add_link_arguments(group: Any) -> None:
    """Add the flags of a run that is one link of a chain."""
    group.add_argument(
        "--load-once",
        action="store_true",
        help="--load names the run that this one starts from: once --save has a checkpoint of its "
        "own, the same command goes on from that",
    )
    group.add_argument(
        "--exit-after-step",
        metavar="STEP",
        type=int,
        help="end the run after this one of its steps, with a checkpoint in --save; started again, "
        "it ends at once, with code 0",
    )


def _add_record_arguments(group: Any) -> None:
    """Add the flags that change nothing about what is trained on."""
    group.add_argument(
        "--allow-schedule-change",
        action="store_true",
        help="resume a checkpoint that was trained under another schedule",
    )
    group.add_argument(
        "--fixed-validation",
        action="store_true",
        help="validate on the same samples every time, instead of going on through the split",
    )
    group.add_argument(
        "--ledger",
        metavar="FILE",
        help="where to keep the run's ledger (default: ledger.jsonl in --save)",
    )
    group.add_argument(
        "--compare-with",
        metavar="LEDGER",
        help="say at every validation, in the log and in TensorBoard, how many steps and GPU hours "
        "that run needed for the loss of now",
    )
    group.add_argument(
        "--ledger-fsync-interval",
        metavar="SECONDS",
        type=float,
        default=10.0,
        help="put the ledger on the disk at most this often; a power cut loses what is younger "
        "(default 10)",
    )


def check_own_flags(args: argparse.Namespace) -> None:
    """Check the flags by themselves.

    Raises:
        UserError: a value is out of range.
    """
    # Written so that NaN fails too.
    if not args.ledger_fsync_interval >= 0:
        raise UserError(
            f"--ledger-fsync-interval {args.ledger_fsync_interval} is below 0 seconds: use "
            "0 for after every line"
        )
    if args.exit_after_step is not None and args.exit_after_step < 1:
        raise UserError(f"--exit-after-step {args.exit_after_step} is no step: give 1 or more")


def check_beside(args: argparse.Namespace) -> None:
    """Check the flags beside all of Megatron's.

    Raises:
        UserError: they contradict one another, or Megatron does not heed one or gets them wrong.
    """
    check_unheeded(args)
    _check_link(args)
    if args.dataloader_inter_document_masking and args.context_parallel_size > 1 and not args.sft:
        # get_batch_on_this_cp_rank (megatron/core/utils.py) then cuts the sequence, and with --sft
        # every document, as Transformer Engine's attention takes it of packed ones. Neither asserts
        # anything. Allow it once it has been seen right on two GPUs.
        raise UserError(
            "--dataloader-inter-document-masking with --context-parallel-size has not been seen "
            "right: Megatron deals out the sequence to the ranks, and Transformer Engine takes "
            "every document to be dealt out by itself; leave one of them out"
        )
    if args.inprocess_restart:
        # The wrapper (nvidia_resiliency_ext.inprocess) deals RANK and WORLD_SIZE out anew at every
        # start and drops Megatron's globals between two; the arguments are read and validated once,
        # with those of the launcher, and Megatron makes its process group of them. The reserve
        # counts among its ranks, so that the others would wait for it for ever.
        raise UserError(
            "--inprocess-restart numbers the ranks anew inside their processes, and the flags are "
            "read once, with the ranks of the launcher: leave it out, and let the launcher start "
            "again (torchrun --max-restarts)"
        )
    if args.blend is not None:
        for is_set, flag in ((args.sft, "--sft"), (args.mock_data, "--mock-data")):
            if is_set:
                raise UserError(f"--blend names indexed corpora, and {flag} reads none: use one")


def _check_link(args: argparse.Namespace) -> None:
    """A run that starts from another, or is gone on with by another, has a checkpoint of its own.

    Raises:
        UserError: it has none, or ends elsewhere.
    """
    if args.load_once and not (args.load and args.save):
        raise UserError("--load-once is of a run with --load and --save: add them")
    if args.exit_after_step is None:
        return
    if args.save is None:
        raise UserError("--exit-after-step ends with a checkpoint: add --save")
    if args.exit_interval not in (None, args.exit_after_step):
        raise UserError(
            f"--exit-interval {args.exit_interval} and --exit-after-step {args.exit_after_step} "
            "both end the run: leave one of them out"
        )
