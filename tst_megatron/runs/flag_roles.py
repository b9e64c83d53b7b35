"""What Megatron's arguments say of a run: their names by role, in one table.

The one idea: whoever asks what makes two runs the same (their model, their batch, a start of one
run) asks this table, so that no list of names stands anywhere else. A name may have several roles.
One that ends with ``_`` or a space stands for all that begin so. Arguments of a method are its own
affair and not in here: they are told by its prefix.
"""

import json
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any


class Role(Enum):
    """What an argument says; the value is the names, in the order in which they are told."""

    MODEL = (
        "add_bias_linear",
        "add_qkv_bias",
        "ffn_hidden_size",
        "group_query_attention",
        "hidden_size",
        "hybrid_layer_pattern",
        "kv_channels",
        "kv_lora_rank",
        "moe_ffn_hidden_size",
        "moe_layer_freq",
        "moe_router_topk",
        "moe_shared_expert_intermediate_size",
        "mtp_num_layers",
        "multi_latent_attention",
        "no_rope_freq",
        "normalization",
        "num_attention_heads",
        "num_experts",
        "num_layers",
        "num_query_groups",
        "position_embedding_type",
        "q_lora_rank",
        "qk_layernorm",
        "rotary_base",
        "rotary_percent",
        "swiglu",
        "untie_embeddings_and_output_weights",
        "window_attn_skip_freq",
    )
    """Its shape."""

    BATCH = ("global_batch_size", "rampup_batch_size", "seq_length", "step_batch_size_schedule")
    """What a step is."""

    DATA = ("data_path", "train_data_path", "valid_data_path", "test_data_path", "blend")
    """Paths of corpora."""

    TOKENIZER = ("tokenizer_model", "vocab_file", "merge_file")
    """Paths of a tokenizer's files."""

    LENGTH = (
        "lr_decay_iters",
        "lr_decay_samples",
        "lr_warmup_iters",
        "lr_warmup_samples",
        "lr_wsd_decay_iters",
        "lr_wsd_decay_samples",
        "train_iters",
        "train_samples",
    )
    """How long it is, and what follows from that."""

    LAYOUT = (
        "tensor_model_parallel_size",
        "pipeline_model_parallel_size",
        "virtual_pipeline_model_parallel_size",
        "context_parallel_size",
        "expert_model_parallel_size",
        "expert_tensor_parallel_size",
        "data_parallel_size",
    )
    """Sizes of the parallel groups."""

    COMPUTATION = (
        *LAYOUT,
        "distributed_",
        "expert_tensor_parallel_num_weight_shards",
        "micro_batch_size",
        "num_layers_per_virtual_pipeline_stage",
        "overlap_",
        "pipeline_model_parallel_",
        "recompute_",
        "sequence_parallel",
        "tensor_parallel_num_weight_shards",
        "tp_comm_",
        "use_distributed_optimizer",
        "world_size",
    )
    """How the same numbers are worked out: this moves the clock, and losses by rounding alone."""

    CIRCUMSTANCES = (
        "allow_repeats",
        "allow_schedule_change",
        "async_",
        "ckpt_",
        "device",
        "dry_run",
        "eval_interval",
        "evaluate_",
        "exit_",
        "flight_recorder_",
        "git commit",
        "host",
        "inprocess_",
        "log_",
        "mlflow_",
        "num_workers",
        "one_logger_",
        "profile",
        "profile_",
        "save_interval",
        "seed",
        "straggler_",
        "tensorboard_",
        "timing_",
        "version of ",
        "wandb_",
    )
    """Where and when it was made, and how often it was looked at: not what it is."""

    BOOKKEEPING = (
        "app_tag_run_name",
        "compare_with",
        "consumed_train_samples",
        "consumed_valid_samples",
        "curr_iteration",
        "data_cache_path",
        "flops_so_far",
        "iteration",
        "ledger",
        "ledger_fsync_interval",
        "load",
        "load_once",
        "local_rank",
        # What its header has in words of its own.
        "methods",
        "num_floating_point_operations_so_far",
        "one_logger_run_name",
        "rank",
        "recipe",
        "save",
        "skipped_train_samples",
        "tensorboard_dir",
        # Likewise.
        "tokenizer_end",
        "tokenizer_sha256",
        "tokenizer_tokens",
        "wandb_entity",
        "wandb_exp_name",
        "wandb_project",
        "wandb_save_dir",
    )
    """Where it writes, how far it had got and who watches: nothing of what was trained."""

    RATE = ("lr", "min_lr")
    """The height of its learning rate."""

    OF_A_START = (*BOOKKEEPING, *LENGTH, "evaluate_", "exit_")
    """What a later start of a run may have otherwise, with the same losses up to there."""

    SHOWN = (
        "num_layers",
        "hidden_size",
        "ffn_hidden_size",
        "num_attention_heads",
        "num_query_groups",
        "num_experts",
        "seq_length",
        "padded_vocab_size",
        "global_batch_size",
        "micro_batch_size",
        "train_iters",
        "optimizer",
        "lr",
        "min_lr",
        "lr_decay_style",
        "lr_warmup_iters",
        "weight_decay",
        "bf16",
        "world_size",
        "tokenizer_model",
        "data_path",
        "seed",
        "device",
    )
    """The main ones, which a reader is shown though the sides agree."""

    EVERY_START = ("seed", "num_layers", "hidden_size", "seq_length", "global_batch_size")
    """What all starts of one run have in common, whatever a user changed between them."""

    EVENT_FILES = (
        "seed",
        "num_layers",
        "hidden_size",
        "seq_length",
        "tokenizer_model",
    )
    """Likewise of event files of TensorBoard, which have no id of a run."""

    BEGINNING = (
        "seed",
        "num_layers",
        "hidden_size",
        "num_experts",
        "seq_length",
        "global_batch_size",
        "train_iters",
        "train_samples",
        "lr",
        "lr_decay_style",
        "data_path",
        "tokenizer_model",
    )
    """What a run that starts over after a slip or a kill has still in common with itself."""

    OUTPUT = ("save", "load", "tensorboard_dir", "ledger")
    """Where a run of many has a place of its own."""

    SCALED = (
        "lr_warmup_iters",
        "lr_wsd_decay_iters",
        "lr_decay_iters",
        "eval_interval",
        "save_interval",
    )
    """Steps that a shorter run has its share of."""

    def has(self, name: str) -> bool:
        """Whether an argument has the role."""
        return any(
            name.startswith(own) if own.endswith(("_", " ")) else name == own for own in self.value
        )


def begun_otherwise(
    one: Mapping[str, Any],
    other: Mapping[str, Any],
    role: Role,
    prefixes: Sequence[str] = (),
) -> str | None:
    """Why two starts are not of one run: the first argument that both tell and that differs.

    Args:
        one: a header.
        other: likewise.
        role: `Role.EVERY_START`, `Role.EVENT_FILES` or `Role.BEGINNING`.
        prefixes: of further arguments that count, such as a method's.

    Returns:
        Its name; None where they may be of one run.
    """
    ours, theirs = (
        (header.get("flags") or {}) | {name: header[name] for name in role.value if name in header}
        for header in (one, other)
    )
    own = sorted(name for name in ours if name.startswith(tuple(prefixes)))
    both = [name for name in (*role.value, *own) if name in ours and name in theirs]
    return next((name for name in both if _plain(ours[name]) != _plain(theirs[name])), None)


def _plain(value: Any) -> Any:
    """As JSON has it, which knows no tuples."""
    return json.loads(json.dumps(value, default=str))
