"""The ``--tst-*`` flags: what they are, what they mean together, and what they cannot go with.

The one idea: everything is decided here, from Megatron's parsed arguments, before any process group
exists. The rest of the package is given a `Superposition` and trusts it.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from megatron.core.datasets.object_storage_utils import is_object_storage_path

from tst_megatron.errors import UserError
from tst_megatron.methods.superposition.bags import BAG_WEIGHTS
from tst_megatron.methods.superposition.loss import OBJECTIVES
from tst_megatron.methods.superposition.model import BagObjective
from tst_megatron.methods.superposition.open_schedule import OpenSchedule, is_auto
from tst_megatron.methods.superposition.schedule import BagSchedule
from tst_megatron.methods.superposition.schedule_flags import (
    add_schedule_arguments,
    check_schedule_flags,
    data_schedule,
    schedule_of_steps,
    superposes,
)
from tst_megatron.methods.superposition.switch import AutoSwitch, rule_of
from tst_megatron.stock.batch_sizes import train_steps


@dataclass(frozen=True)
class Superposition:
    """How a run superposes: which samples, which side of the model, and scored how.

    Attributes:
        schedule: bag size of every sample.
        superpose: ``both``, or the paper's ablations ``input`` (bags in, one token out) and
            ``output`` (tokens in, a bag out).
        bag_objective: how a target bag is scored.
        bag_boundary: ``any``, or ``document``: no bag holds tokens of two documents.
        switch: what ends an open schedule's superposed stage; None for a fixed one.
    """

    schedule: BagSchedule
    superpose: str
    bag_objective: BagObjective
    bag_boundary: str = "any"
    switch: AutoSwitch | None = None

    @property
    def reads_bags(self) -> bool:
        """Whether a superposed position is a bag of the text, so that it consumes s tokens."""
        return self.superpose != "output"

    @property
    def predicts_bags(self) -> bool:
        """Whether a superposed position's target is a bag."""
        return self.superpose != "input"

    @property
    def reads_empty_places(self) -> bool:
        """Whether bags that are read may be filled up with `EMPTY`."""
        return self.reads_bags and self.bag_boundary == "document"

    @property
    def data_schedule(self) -> BagSchedule:
        """The schedule as the data see it: output superposition reads single tokens throughout."""
        return data_schedule(self.schedule, self.superpose)

    def as_saved(self) -> dict[str, Any]:
        """What a checkpoint remembers, to tell a resume under another method, and to decide on."""
        saved = {
            "stages": [(s.bag_size, s.num_samples) for s in self.schedule.superposed_stages],
            "superpose": self.superpose,
            "bag_weights": self.bag_objective.weights,
            "objective": self.bag_objective.objective,
            "bag_boundary": self.bag_boundary,
        }
        return saved if self.switch is None else saved | {"auto": self.switch.as_saved()}


def add_tst_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the ``--tst-*`` group to Megatron's parser (its ``extra_args_provider``)."""
    group = parser.add_argument_group(
        title="token superposition",
        description="Train the first part of the run on bags of tokens (arXiv 2605.06546).",
    )
    add_schedule_arguments(group)
    group.add_argument(
        "--tst-bag-weights",
        choices=BAG_WEIGHTS,
        default="uniform",
        help="weights of the places inside the target bag (default uniform)",
    )
    group.add_argument(
        "--tst-objective",
        choices=OBJECTIVES,
        default="mce",
        help="multi-hot cross-entropy (default) or the bag's total probability",
    )
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
    return parser


def check_flags(args: argparse.Namespace) -> None:
    """Check the ``--tst-*`` flags that need nothing but themselves.

    Raises:
        UserError: a value is out of range, or flags contradict one another.
    """
    check_schedule_flags(args)
    # Written so that NaN fails too.
    if not args.ledger_fsync_interval >= 0:
        raise UserError(
            f"--ledger-fsync-interval {args.ledger_fsync_interval} is below 0 seconds: use "
            "0 for after every line"
        )
    if args.blend is not None:
        for is_set, flag in ((args.sft, "--sft"), (args.mock_data, "--mock-data")):
            if is_set:
                raise UserError(f"--blend names indexed corpora, and {flag} reads none: use one")
    if not superposes(args):
        for flag, default in (
            ("superpose", "both"),
            ("bag_boundary", "any"),
            ("bag_weights", "uniform"),
            ("objective", "mce"),
        ):
            if getattr(args, f"tst_{flag}") != default:
                raise UserError(
                    f"--tst-{flag.replace('_', '-')} does nothing without a superposition phase: "
                    "add --tst-bag-size or --tst-schedule"
                )
        return
    if args.tst_objective == "mce-alt" and args.tst_bag_weights != "uniform":
        raise UserError(
            "--tst-objective mce-alt takes no weights: leave --tst-bag-weights out or use mce"
        )
    if args.tst_superpose == "input" and (
        args.tst_bag_weights != "uniform" or args.tst_objective != "mce"
    ):
        raise UserError(
            "--tst-superpose input predicts single tokens: leave --tst-bag-weights and "
            "--tst-objective out"
        )
    _check_combinations(args)


def superposition_from_args(args: argparse.Namespace) -> Superposition | None:
    """The run's superposition, from validated arguments; None for an ordinary run.

    Raises:
        UserError: a stage rounds to 0 steps, or the run has no number of steps.
    """
    if not superposes(args):
        return None
    schedule = schedule_of_steps(args)(train_steps(args))
    switch = None
    if isinstance(schedule, OpenSchedule):
        switch = AutoSwitch(schedule, rule_of(args, schedule))
    return Superposition(
        schedule=schedule,
        superpose=args.tst_superpose,
        bag_objective=BagObjective(args.tst_bag_weights, args.tst_objective),
        bag_boundary=args.tst_bag_boundary,
        switch=switch,
    )


_OF_TWO_DOCUMENTS = (
    "bags hold tokens of neighbouring documents, unless you add --tst-bag-boundary document"
)

# What bags cannot go with yet: (is it asked for, the flag, why not and what to do).
_UNSUPPORTED: tuple[tuple[Callable[[argparse.Namespace], Any], str, str], ...] = (
    (
        lambda a: a.reset_attention_mask and a.tst_bag_boundary == "any",
        "--reset-attention-mask",
        _OF_TWO_DOCUMENTS,
    ),
    (
        lambda a: a.reset_position_ids and a.tst_bag_boundary == "any",
        "--reset-position-ids",
        _OF_TWO_DOCUMENTS,
    ),
    (
        lambda a: a.eod_mask_loss and a.tst_bag_boundary == "any",
        "--eod-mask-loss",
        _OF_TWO_DOCUMENTS,
    ),
    (
        lambda a: a.dataloader_inter_document_masking and a.tst_bag_boundary == "any",
        "--dataloader-inter-document-masking",
        _OF_TWO_DOCUMENTS,
    ),
    (
        lambda a: (
            a.dataloader_inter_document_masking
            and a.pipeline_model_parallel_size > 1
            and a.micro_batch_size != 1
        ),
        "--dataloader-inter-document-masking with pipeline parallelism and a --micro-batch-size "
        "above 1",
        "Megatron packs the samples of a micro-batch, but not between pipeline stages",
    ),
    (
        lambda a: (
            a.reset_attention_mask
            and not a.create_attention_mask_in_dataloader
            and not a.dataloader_inter_document_masking
        ),
        "--reset-attention-mask with --no-create-attention-mask-in-dataloader",
        "there is no mask to reset, so use --dataloader-inter-document-masking",
    ),
    (
        lambda a: a.cuda_graph_impl == "full_iteration",
        "--cuda-graph-impl full_iteration",
        "the batch changes its shape between the phases",
    ),
    (lambda a: a.fim_data, "--fim-data", "its data set rewrites samples token by token"),
    (lambda a: a.sft, "--sft", "its data are packed conversations, not running text"),
    (lambda a: a.mock_data, "--mock-data", "mock data have no running text to cut into bags"),
    (
        lambda a: a.position_embedding_type == "mrope",
        "--position-embedding-type mrope",
        "a bag has one position, and mrope three",
    ),
    (
        lambda a: a.hybrid_context_parallel,
        "--hybrid-context-parallel",
        "its samples have lengths of their own",
    ),
    (
        lambda a: a.iterations_to_skip,
        "--iterations-to-skip",
        "skipping reads batches in the ordinary shape",
    ),
    (
        lambda a: a.phase_transition_iterations,
        "--phase-transition-iterations",
        "it counts the samples of a phase from 0, and the bag size goes by the samples of the run",
    ),
    (
        lambda a: a.decrease_batch_size_if_needed,
        "--decrease-batch-size-if-needed",
        "the phases end between steps of the whole batch size",
    ),
    (lambda a: a.dataloader_type == "external", "--dataloader-type external", "bags are cut by us"),
    (
        lambda a: a.dataloader_type == "cyclic",
        "--dataloader-type cyclic",
        "it shuffles samples across the phases",
    ),
    (
        lambda a: a.multiple_validation_sets,
        "--multiple-validation-sets",
        "the bag loss is measured on one validation set",
    ),
    (
        lambda a: (a.tensor_parallel_num_weight_shards or 1) > a.tensor_model_parallel_size,
        "--tensor-parallel-num-weight-shards",
        "the superposed embedding reads the whole shard of the table",
    ),
    (
        lambda a: a.logits_load_dir is not None,
        "--logits-load-dir",
        "cached teacher logits are of single tokens",
    ),
    (
        lambda a: a.overlap_moe_expert_parallel_comm,
        "--overlap-moe-expert-parallel-comm",
        "its schedule plan has not been tried with bags",
    ),
)


# What a switch decided by measurement cannot go with.
_UNSUPPORTED_BY_AUTO: tuple[tuple[Callable[[argparse.Namespace], Any], str, str], ...] = (
    (
        lambda a: not a.eval_iters or not a.eval_interval,
        "a run without validations",
        "the switch is decided from the held-out bag loss, so add --eval-interval and --eval-iters",
    ),
    (
        lambda a: a.step_batch_size_schedule is not None,
        "--step-batch-size-schedule",
        "gains are weighed step by step, and steps of other batch sizes cost other FLOPs",
    ),
    (
        lambda a: a.ckpt_format != "torch_dist",
        "--ckpt-format other than torch_dist",
        "the measurements are read from the checkpoint before it is loaded",
    ),
    (
        lambda a: a.non_persistent_ckpt_type is not None,
        "--non-persistent-ckpt-type",
        "the measurements are read from the last persistent checkpoint",
    ),
    (
        lambda a: a.load is not None and is_object_storage_path(a.load),
        "--load from object storage",
        "the measurements are read from the checkpoint before it is loaded",
    ),
)


def _check_combinations(args: argparse.Namespace) -> None:
    for asked_for, flag, reason in _UNSUPPORTED:
        if asked_for(args):
            raise UserError(f"{flag} does not go with --tst-bag-size or --tst-schedule: {reason}")
    if is_auto(args.tst_schedule):
        for asked_for, flag, reason in _UNSUPPORTED_BY_AUTO:
            if asked_for(args):
                raise UserError(f"{flag} does not go with --tst-schedule auto: {reason}")
