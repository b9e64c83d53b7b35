"""The logits of a checkpoint's model as Megatron computes them, in float32 on one process.

``python -m tst_megatron.huggingface.megatron_logits CHECKPOINT DTYPE TOKENS.npy LOGITS.npy``

The one idea: what is compared with another library's must be Megatron's own. So the model is built
by its builder from the arguments in the checkpoint, all of them but how it was computed (layout,
precision, fused kernels); and each tensor goes where Megatron's own ``sharded_state_dict`` says. No
name and no shape of `weights` is used.
"""

import argparse
import copy
import sys
import tempfile
from pathlib import Path
from typing import Any

from tst_megatron.backends import prepare_backend

_LAYOUT = (
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "context_parallel_size",
    "expert_model_parallel_size",
    "expert_tensor_parallel_size",
)
_COMPUTATION: dict[str, Any] = {
    "world_size": 1,
    "rank": 0,
    "data_parallel_size": 1,
    "virtual_pipeline_model_parallel_size": None,
    "num_layers_per_virtual_pipeline_stage": None,
    "pipeline_model_parallel_layout": None,
    "decoder_first_pipeline_num_layers": None,
    "decoder_last_pipeline_num_layers": None,
    "num_layers_in_first_pipeline_stage": None,
    "num_layers_in_last_pipeline_stage": None,
    "account_for_embedding_in_pipeline_split": False,
    "account_for_loss_in_pipeline_split": False,
    "sequence_parallel": False,
    "hierarchical_context_parallel_sizes": None,
    "cp_comm_type": ["p2p"],
    "bf16": False,
    "fp16": False,
    "fp8": None,
    "fp4": None,
    "fp8_param_gather": False,
    "first_last_layers_bf16": False,
    "recompute_granularity": None,
    "recompute_method": None,
    "recompute_num_layers": None,
    "recompute_modules": None,
    "transformer_impl": "local",
    "attention_backend": None,
    "masked_softmax_fusion": False,
    "bias_gelu_fusion": False,
    "bias_swiglu_fusion": False,
    "bias_dropout_fusion": False,
    "apply_rope_fusion": False,
    "persist_layer_norm": False,
    "no_persist_layer_norm": True,
    "gradient_accumulation_fusion": False,
    "cross_entropy_loss_fusion": False,
    "moe_grouped_gemm": False,
    "moe_permute_fusion": False,
    "moe_router_fusion": False,
    "moe_router_padding_for_quantization": False,
    "moe_router_padding_for_fp8": False,
    "moe_token_dispatcher_type": "alltoall",
    "moe_enable_deepep": False,
    "moe_shared_expert_overlap": False,
    "overlap_moe_expert_parallel_comm": False,
    "delay_wgrad_compute": False,
    "tp_comm_overlap": False,
    "cuda_graph_impl": "none",
    "enable_cuda_graph": False,
    "external_cuda_graph": False,
    "fine_grained_activation_offloading": False,
    "cpu_offloading": False,
    "use_cpu_initialization": True,
    "init_model_with_meta_device": False,
    "te_rng_tracker": False,
    "inference_rng_tracker": False,
    "deterministic_mode": False,
    # Heads further on are for training, and a folder of Hugging Face's has none.
    "mtp_num_layers": None,
    "use_torch_fsdp2": False,
    "use_megatron_fsdp": False,
}
"""How it was computed, by argument; set where a checkpoint or this Megatron has the argument."""


def _main(checkpoint: str, dtype: str, tokens: str, logits: str) -> None:
    prepare_backend()
    import numpy as np
    import torch

    with tempfile.TemporaryDirectory() as folder:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/store", rank=0, world_size=1
        )
        found = logits_of(Path(checkpoint), getattr(torch, dtype), np.load(tokens))
        torch.distributed.destroy_process_group()
    with Path(logits).open("wb") as file:
        np.save(file, found)


def logits_of(checkpoint: Path, dtype: Any, ids: Any) -> Any:
    """Megatron's logits, in a process that is the only one of its group.

    Args:
        checkpoint: folder of a step.
        dtype: that weights are rounded to, as they are in what these are compared with.
        ids: ``[b, L]``, int64.

    Returns:
        ``[b, L, Vp]``, float32.

    Raises:
        UserError: the checkpoint cannot be read.
    """
    import torch
    from megatron.core import parallel_state

    from tst_megatron.checkpoints.saved import Saved

    saved = Saved(checkpoint)
    model = _built(_on_one_process(saved.args))
    _fill(model, saved, dtype)
    tokens = torch.from_numpy(ids)
    positions = torch.arange(tokens.shape[1])[None]
    rows = []
    with torch.no_grad():
        # A sequence at a time, as in the other library: so much less memory, too.
        for one in tokens:
            rows.append(model(one[None], positions, None)[0].float())
    parallel_state.destroy_model_parallel()
    return torch.stack(rows).numpy()


def _on_one_process(saved: argparse.Namespace) -> argparse.Namespace:
    """The checkpoint's arguments, and Megatron's defaults where it has none, on one process."""
    import torch
    from megatron.training.arguments import parse_args

    before, sys.argv = sys.argv, sys.argv[:1]
    args = parse_args()
    sys.argv = before
    vars(args).update(copy.copy(vars(saved)))
    for name in _LAYOUT:
        setattr(args, name, 1)
    for name, value in _COMPUTATION.items():
        if hasattr(args, name):
            setattr(args, name, value)
    args.params_dtype = torch.float32
    pattern = getattr(args, "hybrid_layer_pattern", None)
    if pattern is not None:
        # Stages of a pipeline, and heads behind the slash.
        args.hybrid_layer_pattern = pattern.partition("/")[0].replace("|", "")
    return args


def _built(args: argparse.Namespace) -> Any:
    from megatron.core import parallel_state, tensor_parallel
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.training.argument_utils import gpt_config_from_args, hybrid_config_from_args
    from megatron.training.global_vars import set_args

    from tst_megatron.methods.registry import methods

    set_args(args)
    parallel_state.initialize_model_parallel()
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    is_hybrid = getattr(args, "hybrid_layer_pattern", None) is not None
    config = (hybrid_config_from_args if is_hybrid else gpt_config_from_args)(args)
    config.parallel_output = False
    for method in methods():
        # As the run had them: blocks that are a family's own are Megatron's already.
        if method.own_code is not None and method.remembered(args) is not None:
            config = method.run(args).configure_model(config)
    groups = ProcessGroupCollection.use_mpu_process_groups()
    chunks = [config.get_builder_cls()(config).build_model(groups)]
    for hook in config.pre_wrap_hooks:
        chunks = hook(chunks)
    (model,) = chunks
    return model.eval()


def _fill(model: Any, saved: Any, dtype: Any) -> None:
    """Give every tensor of the model its values.

    Args:
        model: Megatron's.
        saved: the checkpoint.
        dtype: that parameters are rounded to on the way.
    """
    import torch
    from megatron.core.dist_checkpointing.dict_utils import nested_values
    from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories

    from tst_megatron.checkpoints.keys import key_of, other_norm

    wanted = model.sharded_state_dict()
    apply_factories(wanted)
    for tensor in nested_values(wanted):
        if not isinstance(tensor, ShardedTensor):
            continue
        key = tensor.key
        name = key_of(key).name
        other = None if name is None else other_norm(name)
        if key not in saved.tensors and other is not None:
            key = key.removesuffix(name) + other
        ones = (1,) * tensor.prepend_axis_num
        values = saved.part(key, tensor.global_offset, (*ones, *tensor.local_shape))
        # A buffer, such as a threshold, is as exact as it was.
        rounded = values.to(dtype) if tensor.data.requires_grad else values
        with torch.no_grad():
            tensor.data.copy_(rounded.reshape(tensor.local_shape))


if __name__ == "__main__":
    _main(*sys.argv[1:])
