"""One rank of a large job, alone in this process: fake process groups and the meta device.

The one idea: building a model needs the groups' sizes and this rank's place in them, never another
rank. What is entered here is left again, so that the next rank finds nothing of it.
"""

import argparse
import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
from megatron.training.argument_utils import gpt_config_from_args, hybrid_config_from_args
from megatron.training.models.base import compose_hooks
from torch.testing._internal.distributed.fake_pg import FakeStore

from tst_megatron.methods.registry import run_of
from tst_megatron.trainer.machine import ATTENTION_VARIABLES


@contextmanager
def as_rank(args: argparse.Namespace, rank: int) -> Iterator[None]:
    """This process as one rank of a job, from process group to random-number trackers.

    Args:
        args: Megatron's validated arguments.
        rank: below the world size.
    """
    assert not dist.is_initialized(), "another process group was left behind"
    with _attention_variables_of_its_own():
        dist.init_process_group("fake", rank=rank, world_size=args.world_size, store=FakeStore())
        try:
            # As in megatron/training/initialize.py.
            parallel_state.initialize_model_parallel(
                args.tensor_model_parallel_size,
                args.pipeline_model_parallel_size,
                args.virtual_pipeline_model_parallel_size,
                context_parallel_size=args.context_parallel_size,
                expert_model_parallel_size=args.expert_model_parallel_size,
                expert_tensor_parallel_size=args.expert_tensor_parallel_size,
                create_gloo_process_groups=False,
            )
            model_parallel_cuda_manual_seed(1)
            yield
        finally:
            parallel_state.destroy_model_parallel()
            dist.destroy_process_group()


@contextmanager
def _attention_variables_of_its_own() -> Iterator[None]:
    """Building a model sets variables of the environment, and asserts that they were not set."""
    with patch.dict(os.environ):
        for name in ATTENTION_VARIABLES:
            os.environ.pop(name, None)
        yield


@contextmanager
def on_meta_device() -> Iterator[None]:
    """Weights made on "the current GPU" are made on the meta device."""
    with patch("torch.cuda.current_device", lambda: torch.device("meta")):
        yield


# What changes no parameter and needs a GPU, Transformer Engine or a library beside it.
_WITHOUT_GPU = {
    "transformer_impl": "local",
    "init_model_with_meta_device": True,
    "fp8": None,
    "fp8_param_gather": False,
    "first_last_layers_bf16": False,
    "moe_grouped_gemm": False,
    "moe_permute_fusion": False,
    "moe_router_fusion": False,
    "moe_router_padding_for_quantization": False,
    "moe_router_padding_for_fp8": False,
    "moe_shared_expert_overlap": False,
    "moe_token_dispatcher_type": "alltoall",
    "use_transformer_engine_op_fuser": False,
    "use_te_activation_func": False,
    "gradient_accumulation_fusion": False,
    "cross_entropy_loss_fusion": False,
    "apply_rope_fusion": False,
    "no_persist_layer_norm": True,
    "memory_efficient_layer_norm": False,
    "tp_comm_overlap": False,
    "cuda_graph_impl": "none",
    "recompute_granularity": None,
    "recompute_method": None,
    "recompute_num_layers": None,
    "recompute_modules": None,
    "fine_grained_activation_offloading": False,
}


def build(args: argparse.Namespace) -> list[Any]:
    """Every chunk of this rank's model, of Megatron's own modules, as the run's methods change it.

    Its parameters are those of Transformer Engine's modules, as ``make test-te`` proves.

    Args:
        args: Megatron's validated arguments.
    """
    return build_chunks(_config(args))


def build_unchanged(args: argparse.Namespace) -> list[Any]:
    """Likewise, without what the methods change in chunks that are built: they say in their terms
    what they add to layers."""
    config = _config(args)
    config.pre_wrap_hooks.clear()
    return build_chunks(config)


def _config(args: argparse.Namespace) -> Any:
    args = without_gpu(args)
    hybrid = args.hybrid_layer_pattern is not None
    from_args = hybrid_config_from_args if hybrid else gpt_config_from_args
    config = run_of(args).configure_model(from_args(args))
    for name in ("init_method", "output_layer_init_method", "embedding_init_method"):
        # Drawing numbers for tensors without memory takes most of the time.
        setattr(config.transformer, name, _as_it_is)
    return config


def without_gpu(args: argparse.Namespace) -> argparse.Namespace:
    """Arguments of a run in which nothing asks for a GPU's kernels as its model is built."""
    args = copy.copy(args)
    vars(args).update({name: _WITHOUT_GPU[name] for name in _WITHOUT_GPU if hasattr(args, name)})
    return args


def _as_it_is(weight: torch.Tensor) -> torch.Tensor:
    return weight


def build_chunks(config: Any) -> list[Any]:
    """The chunks of this rank's model, as ``megatron/training/models/dist_utils.py`` builds them.

    Args:
        config: a ``GPTModelConfig`` or a ``HybridModelConfig``, with its ``pre_wrap_hooks``.
    """
    builder = config.get_builder_cls()(config)
    groups = ProcessGroupCollection.use_mpu_process_groups()
    first, last = groups.pp.rank() == 0, groups.pp.rank() == groups.pp.size() - 1
    chunks = config.transformer.virtual_pipeline_model_parallel_size or 1
    built = [
        builder.build_model(
            groups,
            pre_process=first and chunk == 0,
            post_process=last and chunk == chunks - 1,
            vp_stage=chunk if chunks > 1 else None,
        )
        for chunk in range(chunks)
    ]
    return list(compose_hooks(config.pre_wrap_hooks)(built))
