"""Flags that any run may have beside Megatron's: what is read, how it is validated and recorded.

Nothing of Megatron's is imported, which takes seconds.
"""

import argparse
from collections.abc import Callable
from typing import Any

from tst_megatron.errors import UserError
from tst_megatron.stock.evaluation_steps import check_words, evaluation_steps
from tst_megatron.stock.unheeded import check_unheeded

DRY_RUN = "--dry-run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags to a parser, Megatron's or a smaller one."""
    group = parser.add_argument_group(
        title="tst-megatron", description="What a run reads, and what is recorded of it."
    )
    _add_text_arguments(group)
    _add_link_arguments(group)
    _add_record_arguments(group)
    _add_tracking_arguments(group)
    _add_evaluation_arguments(group)


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
        DRY_RUN,
        nargs="?",
        const="",
        metavar="NxGPU",
        help="check all that is checked before training, say what the run will do and need on so "
        "many GPUs, such as 64xh100 (default: the launcher's ranks, or else the recipe's), and "
        "end; no GPU is asked for, and nothing is written",
    )
    group.add_argument(
        "--ledger-fsync-interval",
        metavar="SECONDS",
        type=float,
        default=10.0,
        help="put the ledger on the disk at most this often; a power cut loses what is younger "
        "(default 10)",
    )


def _add_tracking_arguments(group: Any) -> None:
    """Add the flags of MLflow; those of TensorBoard and W&B are Megatron's."""
    group.add_argument(
        "--mlflow-experiment",
        metavar="NAME",
        help="keep the run's figures in this experiment of MLflow's, which is made if it is new",
    )
    group.add_argument("--mlflow-run-name", metavar="NAME", help="of the run in it")
    group.add_argument(
        "--mlflow-tracking-uri",
        metavar="URI",
        help="of MLflow's server, or of a file such as sqlite:////folder/mlflow.db (default: "
        "MLFLOW_TRACKING_URI, else mlflow.db in --save)",
    )


def _add_evaluation_arguments(group: Any) -> None:
    """Add the flags of what the model is asked while it trains."""
    group.add_argument(
        "--evaluate-at",
        nargs="+",
        metavar="STEP",
        help="ask the model what it scores after these steps: 1000 2000, every:500, end",
    )
    group.add_argument(
        "--evaluate-tasks",
        nargs="+",
        metavar="TASK",
        help="tasks of lm-evaluation-harness, as of tst-megatron evaluate: YAML files, or names",
    )
    group.add_argument(
        "--evaluate-text",
        nargs="+",
        metavar="TEXT",
        help="files, folders or globs, each a text whose bits a byte are measured",
    )
    group.add_argument(
        "--evaluate-limit",
        type=int,
        metavar="N",
        help="no more than the first N items or documents of each",
    )
    group.add_argument(
        "--evaluate-batch-size",
        type=int,
        metavar="N",
        help="rows that a data-parallel rank reads together (default --micro-batch-size)",
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
    _check_own_evaluation(args)


def _check_own_evaluation(args: argparse.Namespace) -> None:
    for name in ("evaluate_limit", "evaluate_batch_size"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value} is below 1")
    asked = args.evaluate_tasks or args.evaluate_text
    if not args.evaluate_at:
        of_it = (asked, args.evaluate_limit, args.evaluate_batch_size)
        if any(one is not None for one in of_it):
            raise UserError(
                "what a model is asked while it trains is asked at a step: add --evaluate-at"
            )
        return
    check_words(args.evaluate_at)
    if not asked:
        raise UserError(
            "--evaluate-at has nothing to ask: add --evaluate-tasks, --evaluate-text or both"
        )


def check_beside(args: argparse.Namespace) -> None:
    """Check the flags beside all of Megatron's.

    Raises:
        UserError: they contradict one another, or Megatron does not heed one or gets them wrong.
    """
    check_unheeded(args)
    _check_link(args)
    if args.evaluate_at:
        _check_evaluation(args)
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


# Of what gives layers inputs of one size, or deals samples out otherwise: a predicate, and what is
# said.
_NOT_BY_ROWS: tuple[tuple[Callable[[argparse.Namespace], bool], str], ...] = (
    (lambda a: a.tp_comm_overlap, "--tp-comm-overlap has buffers of a micro-batch's size"),
    (
        lambda a: a.moe_pad_expert_input_to_capacity,
        "--moe-pad-expert-input-to-capacity has experts of a fixed size",
    ),
    (
        lambda a: a.moe_expert_rank_capacity_factor is not None,
        "--moe-expert-rank-capacity-factor has experts of a fixed size",
    ),
    (lambda a: a.cuda_graph_impl == "local", "--cuda-graph-impl local has graphs of one shape"),
    (
        lambda a: a.hybrid_context_parallel,
        "--hybrid-context-parallel has groups by the length of a sample",
    ),
    (
        lambda a: (a.tensor_parallel_num_weight_shards or 1) > a.tensor_model_parallel_size,
        "--tensor-parallel-num-weight-shards deals samples out to more ranks",
    ),
)


def _check_evaluation(args: argparse.Namespace) -> None:
    """What rows of text of any length cannot be read by, and steps that there are none of.

    Raises:
        UserError: a flag does not go with ``--evaluate-at``, or a step is not the run's.
    """
    if args.skip_train:
        raise UserError(
            "--evaluate-at is between steps, and --skip-train makes none: leave one out, and ask a "
            "checkpoint with tst-megatron evaluate"
        )
    if args.sft:
        raise UserError(
            "--evaluate-at asks in text, and --sft has a tokenizer of conversations: leave it out, "
            "and ask the checkpoints with tst-megatron evaluate"
        )
    if args.train_iters or args.train_samples:
        # A recipe may leave the length to whoever trains it.
        evaluation_steps(args)
    for is_so, reason in _NOT_BY_ROWS:
        if is_so(args):
            raise UserError(
                f"{reason}, and --evaluate-at reads rows of any length: leave one out, and ask the "
                "checkpoints with tst-megatron evaluate"
            )
