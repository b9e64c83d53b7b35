"""One rank of a large job for tests, made as the planner makes it (`tst_megatron.planner`).

What they add: any layer implementation, with its initialisation, and what the checkpoint would make
of every parameter. What is entered here is left again, so that the next test finds nothing of it.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from layouts import Layout, Rank
from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories
from megatron.core.num_microbatches_calculator import destroy_num_microbatches_calculator
from megatron.training.argument_utils import gpt_config_from_args, hybrid_config_from_args
from megatron.training.arguments import parse_and_validate_args
from megatron.training.global_vars import destroy_global_vars
from shapes import Shape

from tst_megatron.methods.registry import add_arguments, run_of
from tst_megatron.planner import fake_ranks
from tst_megatron.trainer.cpu import FLAGS

_RUN = (
    *("--micro-batch-size=1", "--global-batch-size=1024", "--train-iters=100", "--lr=1e-4"),
    *("--use-distributed-optimizer", "--tst-bag-size=6"),
)

NO_FILES = ("--tokenizer-type=NullTokenizer", "--vocab-size=1000")
"""In place of a tokenizer's file; the model's vocabulary is the recipe's, whatever this says."""

ON_META = "--init-model-with-meta-device"

LOCAL = FLAGS
"""Megatron's own modules. Its norm, torch's, refuses sequence parallelism, which changes no shape:
with these flags tensor parallelism goes without."""

TRANSFORMER_ENGINE = (
    *("--transformer-impl=transformer_engine", "--sequence-parallel", "--moe-grouped-gemm"),
    # The LM head is Megatron's own class, which takes this kernel from Apex.
    "--no-gradient-accumulation-fusion",
)


def flags_of(shape: Shape, layout: Layout) -> tuple[str, ...]:
    """Megatron's flags of a model in a layout."""
    flags = (*shape.flags, *layout.all_flags, *_RUN, *NO_FILES, ON_META)
    if not shape.hybrid_layer:
        return flags
    # The pattern says where the stages are, and how many layers there are.
    stages = layout.pp * layout.chunks
    stage = shape.hybrid_layer * (shape.size("num-layers") // stages)
    flags = tuple(flag for flag in flags if not flag.startswith(("--num-layers=", "--num-virtual")))
    return (*flags, f"--hybrid-layer-pattern={'|'.join([stage] * stages)}")


@contextmanager
def megatron_args(flags: Sequence[str], num_ranks: int) -> Iterator[Any]:
    """Megatron's validated arguments, ours among them, as every rank of a job gets them."""
    launcher = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": str(num_ranks)}
    with patch.dict(os.environ, launcher), patch("sys.argv", ["pretrain", *flags]):
        try:
            args = parse_and_validate_args(extra_args_provider=add_arguments)
            yield args
        finally:
            destroy_global_vars()
            destroy_num_microbatches_calculator()


def as_rank(args: Any, rank: Rank) -> AbstractContextManager[None]:
    """This process as one rank."""
    return fake_ranks.as_rank(args, rank.rank)


@contextmanager
def pretended_gpu(with_transformer_engine: bool) -> Iterator[None]:
    """Weights made on "the current GPU" are made on the meta device.

    Transformer Engine's modules refuse to be made without a GPU: for them there is one of compute
    capability 10.0, and the hybrid model's modules are Megatron's own again.
    """
    answers: list[tuple[str, Any]] = [
        ("torch.cuda.current_device", lambda: torch.device("meta")),
    ]
    if with_transformer_engine:
        from megatron.core.extensions.transformer_engine import TENorm
        from megatron.core.models.hybrid.hybrid_layer_specs import hybrid_stack_spec

        blackwell = SimpleNamespace(major=10, minor=0, multi_processor_count=148)
        answers += [
            ("torch.cuda.is_available", lambda: True),
            ("torch.cuda.get_device_properties", lambda *args: blackwell),
            ("torch.cuda.get_device_capability", lambda *args: (10, 0)),
            ("megatron.training.models.hybrid.default_hybrid_stack_spec", hybrid_stack_spec),
            ("megatron.core.models.hybrid.hybrid_block.TENorm", TENorm),
        ]
    with ExitStack() as stack:
        for target, answer in answers:
            stack.enter_context(patch(target, answer))
        yield


def build(args: Any, superposed: bool) -> list[Any]:
    """Every chunk of this rank's model, as the run's methods change it or as Megatron builds it."""
    hybrid = args.hybrid_layer_pattern is not None
    config = (hybrid_config_from_args if hybrid else gpt_config_from_args)(args)
    if superposed:
        config = run_of(args).configure_model(config)
    return fake_ranks.build_chunks(config)


def shards(model: Any) -> dict[str, list[ShardedTensor]]:
    """What every parameter is of the whole model, by Megatron's checkpoint.

    Returns:
        For each name in ``named_parameters``, its parts: one, or two for the halves of SwiGLU.
    """
    state = model.sharded_state_dict()
    apply_factories(state)
    return {name: _sharded_tensors(state[name]) for name, _ in model.named_parameters()}


def _sharded_tensors(entry: Any) -> list[ShardedTensor]:
    if isinstance(entry, ShardedTensor):
        return [entry]
    parts = entry.values() if isinstance(entry, dict) else entry
    return [tensor for part in parts for tensor in _sharded_tensors(part)]
