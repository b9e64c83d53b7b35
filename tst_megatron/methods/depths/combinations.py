"""What routed blocks cannot go with: flags of Megatron's, each with its reason."""

import argparse

from tst_megatron.errors import UserError
from tst_megatron.methods.depths import flags
from tst_megatron.methods.depths.settings import parts_of, ranks_of, rows_of
from tst_megatron.methods.unsupported import Unsupported, refuse
from tst_megatron.stock.layer_kinds import pattern_of

_NOT_TRIED = "it has not been tried with blocks that work on fewer tokens"

_UNSUPPORTED: tuple[Unsupported, ...] = (
    (
        lambda a: a.multi_latent_attention,
        "--multi-latent-attention",
        "it makes its own table of positions, for a whole sequence",
    ),
    (
        lambda a: a.experimental_attention_variant is not None,
        "--experimental-attention-variant",
        "it reads neighbouring tokens, and a routed block has others",
    ),
    (
        lambda a: a.window_size is not None,
        "--window-size",
        "a window would count chosen tokens, and not positions",
    ),
    (
        lambda a: a.position_embedding_type in ("relative", "mrope"),
        "--position-embedding-type relative or mrope",
        "its positions are those of a whole sequence",
    ),
    (
        lambda a: a.heterogeneous_layers_config_path or a.heterogeneous_layers_config_encoded_json,
        "--heterogeneous-layers-config-path",
        "blocks of it have classes of their own",
    ),
    (
        lambda a: a.cuda_graph_impl not in (None, "none"),
        "--cuda-graph-impl",
        _NOT_TRIED,
    ),
    (
        lambda a: a.overlap_moe_expert_parallel_comm,
        "--overlap-moe-expert-parallel-comm",
        "it takes blocks apart, and leaves out what chooses their tokens",
    ),
    (
        lambda a: a.tp_comm_overlap,
        "--tp-comm-overlap",
        "its buffers have the size of a whole sequence",
    ),
    (
        lambda a: a.hybrid_context_parallel,
        "--hybrid-context-parallel",
        "its samples have lengths of their own",
    ),
    (
        lambda a: a.context_parallel_size > 1 and a.dataloader_inter_document_masking,
        "--dataloader-inter-document-masking with --context-parallel-size above 1",
        "each document is cut into chunks by itself",
    ),
    (lambda a: a.use_torch_fsdp2, "--use-torch-fsdp2", _NOT_TRIED),
    (lambda a: a.use_megatron_fsdp, "--use-megatron-fsdp", _NOT_TRIED),
    (
        lambda a: a.init_model_with_meta_device,
        "--init-model-with-meta-device",
        "routers are made where the block's parameters are",
    ),
    (lambda a: a.use_mup, "--use-mup", "it has no rule for a router's width"),
    (lambda a: a.sft, "--sft", "its documents are padded one by one"),
)


def check_beside(args: argparse.Namespace) -> None:
    """Check what routed blocks ask of Megatron.

    Args:
        args: all of Megatron's, before or after its validation.

    Raises:
        UserError: it does not go with them.
    """
    refuse(args, _UNSUPPORTED, "--mod-capacity")
    _check_parts(args)
    pattern = pattern_of(args)
    if pattern is None:
        if args.num_layers is not None:
            flags.routed(args)
        return
    if args.mod_layers is None:
        raise UserError(
            "--mod-capacity with --hybrid-layer-pattern: its layers are attention or an MLP alone, "
            "so say which of them with --mod-layers"
        )
    kinds = pattern.partition("/")[0].replace("|", "")
    for layer in flags.layers(args.mod_layers):
        if layer > len(kinds):
            raise UserError(
                f"--mod-layers {args.mod_layers} names layer {layer} of a pattern with "
                f"{len(kinds)}: leave it out"
            )
        if kinds[layer - 1] not in "*-E":
            raise UserError(
                f"--mod-layers {args.mod_layers}: layer {layer} is {kinds[layer - 1]} in "
                f"--hybrid-layer-pattern {pattern}, and tokens can be left out of attention (*), "
                "MLPs (-) and experts (E) alone"
            )


def _check_parts(args: argparse.Namespace) -> None:
    least, ranks = parts_of(args), ranks_of(args)
    parts = args.mod_parts or least
    if parts % least:
        raise UserError(
            f"--mod-parts {parts}: this layout cuts a sequence into {least} pieces, so give a "
            "multiple of that"
        )
    if args.seq_length is not None and args.seq_length % parts:
        raise UserError(
            f"--mod-parts {parts} does not divide --seq-length {args.seq_length}: give a number "
            "that does"
        )
    rows = rows_of(args) * ranks
    if args.seq_length is not None and args.seq_length % rows:
        raise UserError(
            f"--seq-length {args.seq_length} is no multiple of {rows}, in which tokens are chosen "
            "for products in 8 bits in this layout: give one that is"
        )
