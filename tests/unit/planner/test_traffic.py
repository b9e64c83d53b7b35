"""Collectives against those that a real model calls, and the links they go over.

The model runs on fake process groups, where a rank gets back what it sends: sizes and calls are
those of a job.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.parallel_state import (
    get_context_parallel_group,
    get_data_parallel_group,
    get_expert_data_parallel_group,
    get_expert_model_parallel_group,
    get_expert_tensor_parallel_group,
    get_tensor_model_parallel_group,
)
from megatron.core.transformer.moe.router import TopKRouter
from planned import DENSE, MOE, built, course_of, stage_of
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tst_megatron.methods.superposition.terms import SuperpositionTerms
from tst_megatron.planner.fake_ranks import as_rank, build
from tst_megatron.planner.hardware import GPUS
from tst_megatron.planner.memory import MemoryOfRun
from tst_megatron.planner.precision import Precision
from tst_megatron.planner.traffic import Collective, Group, Traffic, groups_of

_DISTRIBUTED = "--use-distributed-optimizer"
_TP2 = "--tensor-model-parallel-size=2"
_CHUNKS = ("--tst-bag-size=4", "--tst-logits-chunk-size=64")
_KINDS = {
    "_allgather_base_": "all_gather",
    "allgather_": "all_gather",
    "allgather_into_tensor_coalesced_": "all_gather",
    "_reduce_scatter_base_": "reduce_scatter",
    "reduce_scatter_": "reduce_scatter",
    "reduce_scatter_tensor_coalesced_": "reduce_scatter",
    "allreduce_": "all_reduce",
    "allreduce_coalesced_": "all_reduce",
    "alltoall_base_": "all_to_all",
}
# Kind, ranks of the group, bytes of the whole tensor or of a rank's own.
_Call = tuple[str, int, int]


class _Recorder(TorchDispatchMode):
    """Counts collectives, and answers them as if all ranks were alike.

    Attributes:
        calls: those of a forward or backward pass.
        of_buffers: those of Megatron's buffers of gradients and weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[_Call] = Counter()
        self.of_buffers: list[_Call] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.namespace != "c10d":
            return result
        name = func._schema.name.removeprefix("c10d::")
        kind = _KINDS[name]
        size = next(
            dist.ProcessGroup.unbox(arg).size()
            for arg in args
            if isinstance(arg, torch.ScriptObject) and "ProcessGroup" in str(arg._type())
        )
        first, second = (_tensors(arg) for arg in args[:2])
        whole = first if kind in ("all_gather", "all_reduce") else second
        call = kind, size, sum(tensor.nbytes for tensor in whole)
        if size > 1 and name.endswith("coalesced_"):
            self.of_buffers.append(call)
        elif size > 1:
            self.calls[call] += 1
        if kind == "all_gather":
            gathered = torch.cat([tensor.flatten() for tensor in second]).repeat(size)
            for tensor in first:
                part, gathered = gathered.split([tensor.numel(), gathered.numel() - tensor.numel()])
                tensor.view(-1).copy_(part)
        elif kind != "all_reduce":
            for tensor in first:
                tensor.zero_()
        return result


def _tensors(arg: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(arg) if isinstance(leaf, torch.Tensor)]


def _in_turn(router: TopKRouter, entry: torch.Tensor) -> torch.Tensor:
    """In place of the router's scores: every expert gets as many positions as every other."""
    scores = _GATING(router, entry)
    k, experts = router.topk, scores.shape[-1]
    rows = scores.numel() // experts
    chosen = torch.arange(rows * k).view(rows, k) % experts
    return scores * 0 + torch.zeros(rows, experts).scatter_(1, chosen, 10.0).view_as(scores)


_GATING = TopKRouter.gating


def _recorded(args: Any) -> _Recorder:
    """A step of two micro-batches of a real model on one of the ranks."""
    with as_rank(args, 0):
        (model,) = build(args)
        model = model.to_empty(device="cpu").bfloat16()
        for value in model.parameters():
            torch.nn.init.normal_(value, std=0.02)
        ddp = DistributedDataParallel(
            model.config,
            DistributedDataParallelConfig(
                use_distributed_optimizer=args.use_distributed_optimizer,
                grad_reduce_in_fp32=args.accumulate_allreduce_grads_in_fp32,
            ),
            model,
        )
        tokens = torch.zeros(args.micro_batch_size, args.seq_length, dtype=torch.int64)
        positions = torch.arange(args.seq_length).expand_as(tokens)
        with _Recorder() as recorder, patch.object(TopKRouter, "gating", _in_turn):
            for _ in range(_micro_batches(args)):
                ddp(tokens, positions, None, labels=tokens).float().mean().backward()
            finalize_model_grads([ddp], force_all_reduce=False)
            if args.use_distributed_optimizer:
                ddp.start_param_sync(force_sync=True)
    return recorder


def _micro_batches(args: Any) -> int:
    return args.global_batch_size // args.micro_batch_size // args.data_parallel_size


def _traffic(args: Any, stages: Any, gpu: str = "h100") -> Traffic:
    precision = Precision.of(args, GPUS[gpu])
    memory = MemoryOfRun(args, precision, stages, course_of(1))
    return Traffic(args, GPUS[gpu], precision, stages, memory, SuperpositionTerms())


def _without_small(calls: Counter[_Call]) -> Counter[_Call]:
    """Without what is not planned: counts of positions for each expert, and the router's loss."""
    return Counter({call: number for call, number in calls.items() if call[2] > 8 * 8 * 8})


@pytest.mark.parametrize(
    ("flags", "num_gpus"),
    [
        ((*DENSE, _DISTRIBUTED), 4),
        (DENSE, 4),
        ((*DENSE, _TP2), 2),
        ((*DENSE, _TP2, "--sequence-parallel", _DISTRIBUTED), 8),
        # The output layer's collectives and the loss's, however the logits are made.
        ((*DENSE, _TP2, *_CHUNKS), 2),
        ((*DENSE, _TP2, "--sequence-parallel", _DISTRIBUTED, *_CHUNKS), 8),
        ((*MOE, "--expert-model-parallel-size=2", _DISTRIBUTED), 4),
        (
            (
                *(*MOE, _TP2, "--sequence-parallel", "--expert-model-parallel-size=4"),
                *("--expert-tensor-parallel-size=1", _DISTRIBUTED),
            ),
            8,
        ),
        (
            (
                *(*MOE, _TP2, "--sequence-parallel", "--expert-model-parallel-size=2"),
                *("--expert-tensor-parallel-size=2", "--moe-shared-expert-intermediate-size=80"),
            ),
            8,
        ),
    ],
    ids=lambda value: str(value)[-70:],
)
def test_a_real_step_calls_what_is_planned(flags: Sequence[str], num_gpus: int) -> None:
    with built(flags, num_gpus) as (args, stages):
        args.global_batch_size = 2 * args.micro_batch_size * args.data_parallel_size
        planned, recorded = _traffic(args, stages).of_stage(0, stage_of(1)), _recorded(args)
    calls: Counter[_Call] = Counter()
    buffers = []
    for one in planned:
        key = one.kind, one.group.size, one.num_bytes
        if one.group.name in ("data", "expert data"):
            buffers.append(key)
        # The batch is not read here.
        elif one.kind != "broadcast":
            calls[key] += one.calls
    assert calls == _without_small(recorded.calls)
    # Megatron pads its buffers.
    for mine, theirs in zip(sorted(buffers), sorted(recorded.of_buffers), strict=True):
        assert mine[:2] == theirs[:2]
        assert mine[2] == pytest.approx(theirs[2], rel=0.01)


@pytest.mark.parametrize(
    ("flags", "num_gpus"),
    [
        ((*MOE, _TP2, "--sequence-parallel", "--expert-model-parallel-size=4"), 16),
        ((*DENSE, _TP2, "--context-parallel-size=2", "--pipeline-model-parallel-size=2"), 32),
        (
            (*MOE, "--pipeline-model-parallel-size=2", "--expert-model-parallel-size=4"),
            16,
        ),
    ],
    ids=lambda value: str(value)[-60:],
)
def test_groups_are_megatrons(flags: Sequence[str], num_gpus: int) -> None:
    getters = {
        "tensor": get_tensor_model_parallel_group,
        "context": get_context_parallel_group,
        "data": lambda: get_data_parallel_group(with_context_parallel=True),
        "expert": get_expert_model_parallel_group,
        "expert tensor": get_expert_tensor_parallel_group,
        "expert data": get_expert_data_parallel_group,
    }
    gpu = GPUS["h100"]
    with built(flags, num_gpus) as (args, stages):
        for stage in stages:
            rank = stage.ranks[0]
            groups = groups_of(args, rank, gpu)
            with as_rank(args, rank):
                members = {n: dist.get_process_group_ranks(get()) for n, get in getters.items()}
            for name, ranks in members.items():
                nodes = {one // gpu.gpus_per_node for one in ranks}
                assert groups[name] == Group(name, len(ranks), len(nodes))


_NODE, _CLUSTER = Group("g", 8, 1), Group("g", 16, 4)
_ONE_A_NODE = Group("g", 4, 4)


@pytest.mark.parametrize(
    ("kind", "group", "nvlink", "network"),
    [
        # Of a tensor of 1,600 bytes: all but the own part is sent, twice in an all-reduce.
        ("all_gather", _NODE, 1400, 0),
        ("reduce_scatter", _ONE_A_NODE, 0, 1200),
        ("all_reduce", _NODE, 2800, 0),
        # Into each of four nodes come three quarters, by the adapters of four members.
        ("all_gather", _CLUSTER, 1200, 300),
        # A hundredth part to each of sixteen: three of them in the node, twelve elsewhere.
        ("all_to_all", _CLUSTER, 300, 1200),
        ("send", _NODE, 1600, 0),
        ("send", _ONE_A_NODE, 0, 1600),
    ],
)
def test_bytes_by_link(kind: str, group: Group, nvlink: int, network: int) -> None:
    one = Collective("tensor", kind, group, 1600, 3)
    assert (one.nvlink_bytes, one.network_bytes) == (3 * nvlink, 3 * network)
    gpu = GPUS["b200"]
    assert one.seconds(gpu) == max(3 * nvlink / 900e9, 3 * network / 50e9)


def test_a_superposed_step_has_the_baselines_collectives_but_for_the_batch() -> None:
    with built((*DENSE, _TP2, "--sequence-parallel"), 8) as (args, stages):
        traffic = _traffic(args, stages)
        steps = {size: traffic.of_stage(0, stage_of(size)) for size in (1, 6)}
    others = [[one for one in step if one.what != "batch"] for step in steps.values()]
    assert others[0] == others[1]
    (ordinary,), (superposed,) = (
        [one for one in step if one.what == "batch"] for step in steps.values()
    )
    # 28 bytes a position; 8 a token, of one bag more than there are positions.
    assert ordinary.num_bytes == 2 * 128 * 28
    assert superposed.num_bytes == 2 * 129 * 6 * 8
    assert ordinary.calls == superposed.calls


def test_recomputation_calls_a_forward_pass_once_more() -> None:
    full = ("--recompute-granularity=full", "--recompute-method=uniform")
    calls = []
    for more in ((), (*full, "--recompute-num-layers=1")):
        flags = (*DENSE, _TP2, "--sequence-parallel", *more)
        with built(flags, 2) as (args, stages):
            calls.append(
                {(c.what, c.kind): c.calls for c in _traffic(args, stages).of_stage(0, stage_of(1))}
            )
    into, out = (
        ("positions into blocks", "all_gather"),
        ("positions out of blocks", "reduce_scatter"),
    )
    blocks = 4 * 2 * 32
    assert (calls[0][into], calls[0][out]) == (3 * blocks, 2 * blocks)
    assert (calls[1][into], calls[1][out]) == (4 * blocks, 3 * blocks)


def test_stages_send_both_ways() -> None:
    with built((*DENSE, "--pipeline-model-parallel-size=4"), 32) as (args, stages):
        traffic = _traffic(args, stages)
        sent = [
            next(one for one in traffic.of_stage(stage, stage_of(1)) if one.kind == "send")
            for stage in range(4)
        ]
    micro_batches = 64 // 2 // 8
    assert [one.calls for one in sent] == [micro_batches * n for n in (1, 2, 2, 1)]
    assert {one.num_bytes for one in sent} == {2 * 128 * 64 * 2}
    # Every stage is a node.
    assert {one.group.nodes for one in sent} == {2}
