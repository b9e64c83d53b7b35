"""What hashed n-grams cannot go with: flags of Megatron's, each with its reason."""

import argparse

from tst_megatron.methods.unsupported import Unsupported, refuse

_NOT_TRIED = "it has not been tried with tables of n-grams"

_UNSUPPORTED: tuple[Unsupported, ...] = (
    (
        lambda a: a.mtp_num_layers and a.pipeline_model_parallel_size > 1,
        "--mtp-num-layers with --pipeline-model-parallel-size",
        "the last stage has an embedding of its own, whose tables nobody keeps like the first's",
    ),
    (
        lambda a: a.hybrid_context_parallel,
        "--hybrid-context-parallel",
        "a rank's tokens are no longer in the order of the text",
    ),
    (lambda a: a.sft, "--sft", _NOT_TRIED),
    (
        lambda a: (a.tensor_parallel_num_weight_shards or 1) > a.tensor_model_parallel_size,
        "--tensor-parallel-num-weight-shards",
        "the tables are split over tensor-parallel ranks alone",
    ),
    (lambda a: a.use_torch_fsdp2, "--use-torch-fsdp2", _NOT_TRIED),
    (lambda a: a.use_megatron_fsdp, "--use-megatron-fsdp", _NOT_TRIED),
    (
        lambda a: a.init_model_with_meta_device,
        "--init-model-with-meta-device",
        "the tables are added where the model is",
    ),
    (
        lambda a: a.use_mup,
        "--use-mup",
        "it has no rule for tables that are added to the embedding",
    ),
)


def check_beside(args: argparse.Namespace) -> None:
    """Check what hashed n-grams ask of Megatron.

    Args:
        args: all of Megatron's, before or after its validation.

    Raises:
        UserError: it does not go with them.
    """
    refuse(args, _UNSUPPORTED, "--ngram-rows")
