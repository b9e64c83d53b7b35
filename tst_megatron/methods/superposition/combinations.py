"""What bags cannot go with: flags of Megatron's, each with its reason."""

import argparse

from tst_megatron.corpora.blend import is_remote
from tst_megatron.methods.superposition.open_schedule import is_auto
from tst_megatron.methods.unsupported import Unsupported, refuse

_OF_TWO_DOCUMENTS = (
    "bags hold tokens of neighbouring documents, unless you add --tst-bag-boundary document"
)

_OVERLAP_OF_EXPERTS = "--overlap-moe-expert-parallel-comm"

# What bags cannot go with yet.
_UNSUPPORTED: tuple[Unsupported, ...] = (
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
        _OVERLAP_OF_EXPERTS,
        "its schedule plan has not been tried with bags",
    ),
)

_OF_A_SHARDED_WEIGHT = (
    "the output layer's weight goes back to its shards before the loss multiplies by it"
)

# What logits in chunks cannot go with.
_UNSUPPORTED_BY_CHUNKS: tuple[Unsupported, ...] = (
    (lambda a: a.use_torch_fsdp2, "--use-torch-fsdp2", _OF_A_SHARDED_WEIGHT),
    (lambda a: a.use_megatron_fsdp, "--use-megatron-fsdp", _OF_A_SHARDED_WEIGHT),
    (lambda a: a.use_mup, "--use-mup", "it scales the logits"),
    (lambda a: a.fp8_output_proj, "--fp8-output-proj", "its product is Transformer Engine's own"),
    (
        # Of Megatron 0.20.
        lambda a: getattr(a, "logit_dtype", None) is not None,
        "--output-logit-dtype",
        "blocks of logits are of the weights' type",
    ),
    (
        lambda a: a.defer_embedding_wgrad_compute,
        "--defer-embedding-wgrad-compute",
        "it keeps the logits' gradients of all micro-batches",
    ),
    (lambda a: a.logits_save_dir is not None, "--logits-save-dir", "it saves the whole logits"),
    (
        lambda a: a.save_dgrads_interval is not None,
        "--save-dgrads-interval",
        "it saves the whole logits' gradient",
    ),
    (lambda a: a.config_logger_dir, "--config-logger-dir", "it writes down the whole logits"),
    (
        # Refused with bags at all, so far; this holds when that is lifted.
        lambda a: a.overlap_moe_expert_parallel_comm,
        _OVERLAP_OF_EXPERTS,
        "it goes by build_schedule_plan, and only the model's forward leaves logits to the loss",
    ),
)


# What a switch decided by measurement cannot go with.
_UNSUPPORTED_BY_AUTO: tuple[Unsupported, ...] = (
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
        lambda a: a.load is not None and is_remote(a.load),
        "--load from object storage",
        "the measurements are read from the checkpoint before it is loaded",
    ),
)


def check_combinations(args: argparse.Namespace) -> None:
    """Check what a run that superposes asks of Megatron.

    Args:
        args: all of Megatron's, before or after its validation.

    Raises:
        UserError: it does not go with bags.
    """
    refuse(args, _UNSUPPORTED, "--tst-bag-size or --tst-schedule")
    if args.tst_logits_chunk_size:
        refuse(args, _UNSUPPORTED_BY_CHUNKS, "--tst-logits-chunk-size")
    if is_auto(args.tst_schedule):
        refuse(args, _UNSUPPORTED_BY_AUTO, "--tst-schedule auto")
