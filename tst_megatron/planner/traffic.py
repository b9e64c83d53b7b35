"""The collectives of a step: what every GPU sends, and over which link.

The one idea: the groups are Megatron's, by its own generator of ranks, so that their members say
whether a collective stays inside a node; what they carry are the widths of the layers. The stages
of a run have the same collectives, but for the batch's broadcast (docs/parallelism.md).

Bytes are what one GPU sends. In a group over several nodes every byte enters each node once, shared
by the network adapters of the group's members there; the rest goes by NVLink.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from megatron.core.parallel_state import RankGenerator

from tst_megatron.methods.terms import Terms
from tst_megatron.planner.activations import Activations, Recomputation
from tst_megatron.planner.counts import Chunk, Layer, PipelineStage
from tst_megatron.planner.hardware import Gpu
from tst_megatron.planner.memory import BATCH_POSITION, MemoryOfRun
from tst_megatron.planner.pipeline import num_microbatches
from tst_megatron.planner.precision import Precision
from tst_megatron.runs.stages import Stage

_ORDER = "tp-cp-ep-dp-pp"  # Megatron's, of the ranks.


@dataclass(frozen=True)
class Group:
    """A process group, and how it lies on the nodes.

    Attributes:
        name: what Megatron splits over it.
        size: ranks.
        nodes: over which they are spread.
    """

    name: str
    size: int
    nodes: int

    @property
    def per_node(self) -> float:
        """Ranks on one node."""
        return self.size / self.nodes


@dataclass(frozen=True)
class Collective:
    """A collective that a rank calls some times a step.

    Attributes:
        what: it carries.
        kind: ``all_gather``, ``reduce_scatter``, ``all_reduce``, ``all_to_all``, ``send`` or
            ``broadcast``.
        group: over which.
        num_bytes: of the whole tensor; of a rank's own where it is sent to one or to each.
        calls: a step.
        behind: what a step computes meanwhile: ``backward``, ``forward``, ``products``,
            ``attention``, or nothing.
    """

    what: str
    kind: str
    group: Group
    num_bytes: int
    calls: int
    behind: str = ""

    @property
    def nvlink_bytes(self) -> float:
        """That a GPU sends inside its node in a step."""
        return self._sent()[0] * self.calls

    @property
    def network_bytes(self) -> float:
        """That a GPU sends to other nodes in a step."""
        return self._sent()[1] * self.calls

    def seconds(self, gpu: Gpu) -> float:
        """A step's, at the links' bandwidths, both links at work at once."""
        return max(self.nvlink_bytes / gpu.nvlink, self.network_bytes / gpu.network)

    def _sent(self) -> tuple[float, float]:
        size, nodes, per_node = self.group.size, self.group.nodes, self.group.per_node
        if self.kind == "all_to_all":
            own = self.num_bytes / size
            return own * (per_node - 1), own * (size - per_node)
        if self.kind in ("send", "broadcast"):
            return (0.0, self.num_bytes) if nodes > 1 else (self.num_bytes, 0.0)
        rounds = 2 if self.kind == "all_reduce" else 1
        everything = self.num_bytes * (size - 1) / size
        between = self.num_bytes * (nodes - 1) / nodes / per_node
        return rounds * (everything - between), rounds * between


def groups_of(args: argparse.Namespace, rank: int, gpu: Gpu) -> dict[str, Group]:
    """The process groups of a rank, by the name of what is split over them.

    As ``initialize_model_parallel`` in megatron/core/parallel_state.py makes them.
    """
    members = _members(
        args.world_size,
        args.tensor_model_parallel_size,
        args.context_parallel_size,
        args.pipeline_model_parallel_size,
        args.expert_tensor_parallel_size,
        args.expert_model_parallel_size,
        rank,
    )
    return {
        name: Group(name, len(ranks), len({one // gpu.gpus_per_node for one in ranks}))
        for name, ranks in members.items()
    }


@cache
def _members(
    size: int, tp: int, cp: int, pp: int, etp: int, ep: int, rank: int
) -> dict[str, list[int]]:
    dense = RankGenerator(tp=tp, ep=1, dp=size // (tp * cp * pp), pp=pp, cp=cp, order=_ORDER)
    experts = RankGenerator(tp=etp, ep=ep, dp=size // (etp * ep * pp), pp=pp, cp=1, order=_ORDER)

    def mine(generator: Any, axes: str) -> list[int]:
        return next(ranks for ranks in generator.get_ranks(axes) if rank in ranks)

    members = {
        "tensor": mine(dense, "tp"),
        "context": mine(dense, "cp"),
        "data": mine(dense, "dp-cp"),
        "expert": mine(experts, "ep"),
        "expert tensor": mine(experts, "tp"),
        "expert data": mine(experts, "dp"),
    }
    if pp > 1:
        stages = mine(dense, "pp")
        members["pipeline"] = [rank, stages[(stages.index(rank) + 1) % pp]]
    return members


class Traffic:
    """The collectives of one run.

    Args:
        args: Megatron's validated arguments.
        gpu: whose nodes the groups lie on.
        precision: bytes of numbers.
        pipeline: what was built.
        memory: of the same run, which knows the FP8 weights.
        terms: of the run's methods.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        gpu: Gpu,
        precision: Precision,
        pipeline: Sequence[PipelineStage],
        memory: MemoryOfRun,
        terms: Terms,
    ) -> None:
        self._args = args
        self._gpu = gpu
        self._precision = precision
        self._built = pipeline
        self._memory = memory
        self._terms = terms
        self._sizes = Activations(args, precision)
        self._micro_batches = num_microbatches(args)
        self._recomputation = Recomputation.of(args)

    def of_stage(self, stage: int, of_run: Stage) -> list[Collective]:
        """What the first rank of a pipeline stage calls in a step.

        Args:
            stage: the pipeline rank.
            of_run: the stage of the run that the step is in.
        """
        groups = groups_of(self._args, self._built[stage].ranks[0], self._gpu)
        collectives = [
            *self._data(stage, groups),
            *self._tensor(stage, groups, of_run),
            *self._context(stage, groups),
            *self._expert(stage, groups),
            *self._pipeline(stage, groups),
        ]
        return [one for one in collectives if one.group.size > 1 and one.calls and one.num_bytes]

    def _data(self, stage: int, groups: dict[str, Group]) -> Iterator[Collective]:
        args, precision, built = self._args, self._precision, self._built[stage]
        experts = built.expert_parameters
        fp8 = self._memory.fp8_parameters(stage)
        # The experts' weights are products, all of them.
        fp8_experts = min(fp8, experts)
        for what, name, numbers, in_fp8 in (
            ("", "data", built.parameters - experts, fp8 - fp8_experts),
            (" of experts", "expert data", experts, fp8_experts),
        ):
            gradients = numbers * precision.gradient
            backward = "backward" if args.overlap_grad_reduce else ""
            if not args.use_distributed_optimizer:
                yield Collective(
                    f"gradients{what}", "all_reduce", groups[name], gradients, 1, backward
                )
                continue
            yield Collective(
                f"gradients{what}", "reduce_scatter", groups[name], gradients, 1, backward
            )
            weights = (numbers - in_fp8) * precision.compute + in_fp8 * precision.gathered
            forward = "forward" if args.overlap_param_gather else ""
            yield Collective(f"weights{what}", "all_gather", groups[name], weights, 1, forward)

    def _tensor(self, stage: int, groups: dict[str, Group], of_run: Stage) -> Iterator[Collective]:
        whole = self._sizes.positions * self._args.hidden_size * self._precision.compute
        yield from self._blocks(stage, groups["tensor"], whole)
        yield from self._ends(stage, groups["tensor"], whole, of_run)

    def _blocks(self, stage: int, group: Group, whole: int) -> Iterator[Collective]:
        """Positions on their way into the blocks of the layers, and out of them."""
        times = self._micro_batches
        layers = [
            (chunk, place, layer)
            for chunk in self._built[stage].chunks
            for place, layer in enumerate(chunk.layers)
        ]
        blocks = sum(self._tensor_blocks(*layer) for layer in layers)
        again = sum(self._tensor_blocks(*layer, recomputed=True) for layer in layers)
        out, calls = "positions out of blocks", times * (2 * blocks + again)
        if not self._args.sequence_parallel:
            yield Collective(out, "all_reduce", group, whole, calls)
            return
        # Forward one of either; backward the input once more, its gradient and the output's.
        into = self._sizes.positions * self._args.hidden_size if self._precision.fp8 else whole
        behind = "products" if self._args.tp_comm_overlap else ""
        calls_into = times * (3 * blocks + again)
        yield Collective("positions into blocks", "all_gather", group, into, calls_into, behind)
        yield Collective(out, "reduce_scatter", group, whole, calls, behind)

    def _ends(self, stage: int, group: Group, whole: int, of_run: Stage) -> Iterator[Collective]:
        """Of the embedding, the head and the loss, and of the batch; once a step, the norms'."""
        built, times, name = self._built[stage], self._micro_batches, "embedding and head"
        first = any(chunk.embedding for chunk in built.chunks)
        last = any(chunk.head for chunk in built.chunks)
        if self._args.sequence_parallel:
            yield Collective(name, "all_gather", group, whole, times * (first + 2 * last))
            yield Collective(name, "reduce_scatter", group, whole, times * (first + last))
            small = sum(one.local for one in built.counts if one.kind in ("norms", "router"))
            gradients = small * self._precision.gradient
            yield Collective("gradients of norms and routers", "all_reduce", group, gradients, 1)
        else:
            yield Collective(name, "all_reduce", group, whole, times * (first + last))
        if last:
            yield Collective("loss", "all_reduce", group, self._sizes.positions * 4, 3 * times)
        if first or last:
            yield self._batch(group, of_run, times * (first or last))

    def _batch(self, group: Group, of_run: Stage, calls: int) -> Collective:
        args = self._args
        ordinary = args.micro_batch_size * args.seq_length * BATCH_POSITION
        size = self._terms.broadcast_bytes(args, of_run, ordinary)
        return Collective("batch", "broadcast", group, size, calls)

    def _tensor_blocks(
        self, chunk: Chunk, place: int, layer: Layer, recomputed: bool = False
    ) -> int:
        """Blocks of a layer that are split over tensor ranks; or those computed again."""
        attention = layer.attention is not None
        mlp = layer.mlp is not None
        shared = layer.experts is not None and layer.experts.shared is not None
        if recomputed and not self._is_recomputed(place):
            modules = self._recomputation.modules
            attention = False
            mlp = mlp and "mlp" in modules
            shared = shared and bool({"moe", "shared_experts"} & set(modules))
        return attention + mlp + shared

    def _is_recomputed(self, place: int) -> bool:
        recomputation = self._recomputation
        if recomputation.granularity != "full":
            return False
        return recomputation.method != "block" or place < recomputation.num_layers

    def _context(self, stage: int, groups: dict[str, Group]) -> Iterator[Collective]:
        args, group = self._args, groups["context"]
        kind = args.cp_comm_type[0] if args.cp_comm_type else "p2p"
        others = group.size - 1
        for chunk in self._built[stage].chunks:
            for place, layer in enumerate(chunk.layers):
                if layer.attention is None:
                    continue
                n, compute = self._sizes.positions, self._precision.compute
                forward = self._micro_batches * (2 if self._is_recomputed(place) else 1)
                keys = 2 * n * layer.attention.keys * compute
                if kind == "a2a":
                    # Queries, keys and values there, the output back; and their gradients.
                    queries = n * layer.attention.queries * compute
                    both = forward + self._micro_batches
                    yield Collective("heads", "all_to_all", group, keys + 2 * queries, both)
                elif kind == "all_gather":
                    size = keys * group.size
                    gathers = forward + self._micro_batches
                    yield Collective("keys and values", "all_gather", group, size, gathers)
                    yield Collective(
                        "gradients of keys and values",
                        "reduce_scatter",
                        group,
                        size,
                        self._micro_batches,
                    )
                else:
                    # Backward the keys go round once more, and their gradients all the way home.
                    steps = forward * others + self._micro_batches * (2 * others + 1)
                    yield Collective("keys and values", "send", group, keys, steps, "attention")

    def _expert(self, stage: int, groups: dict[str, Group]) -> Iterator[Collective]:
        args, compute = self._args, self._precision.compute
        over, beside = groups["expert"], groups["expert tensor"]
        of_weight = {"fp32": 4, "fp64": 8}.get(args.moe_router_dtype, compute)
        for chunk in self._built[stage].chunks:
            for place, layer in enumerate(chunk.layers):
                if layer.experts is None:
                    continue
                again = self._is_recomputed(place) or "moe" in self._recomputation.modules
                backward = self._micro_batches
                forward = backward * (2 if again else 1)
                copies = self._sizes.stream_positions * layer.experts.top_k
                size, weights = copies * args.hidden_size * compute, copies * of_weight
                for what, one in (
                    ("positions to experts", size),
                    ("positions from experts", size),
                    ("weights of positions", weights),
                ):
                    yield Collective(what, "all_to_all", over, one, forward + backward)
                # What is split over the ranks of an expert is summed in the router's precision
                # (combine_preprocess in megatron/core/transformer/moe/token_dispatcher.py).
                summed = copies * args.hidden_size * of_weight
                for what, one, there, back in (
                    ("positions into experts", size, "all_gather", "reduce_scatter"),
                    ("weights of positions", weights, "all_gather", "reduce_scatter"),
                    ("positions out of experts", summed, "reduce_scatter", "all_gather"),
                ):
                    whole = one * beside.size
                    yield Collective(what, there, beside, whole, forward)
                    yield Collective(what, back, beside, whole, backward)

    def _pipeline(self, stage: int, groups: dict[str, Group]) -> Iterator[Collective]:
        if "pipeline" not in groups:
            return
        args, chunks = self._args, self._built[stage].chunks
        stream = 4 if args.fp32_residual_connection else self._precision.compute
        size = self._sizes.stream_positions * args.hidden_size * stream
        forward = len(chunks) - any(chunk.head for chunk in chunks)
        backward = len(chunks) - any(chunk.embedding for chunk in chunks)
        behind = "products" if args.overlap_p2p_comm and len(chunks) > 1 else ""
        calls = self._micro_batches * (forward + backward)
        yield Collective(
            "positions to the next stage, gradients back",
            "send",
            groups["pipeline"],
            size,
            calls,
            behind,
        )


def merged(collectives: Sequence[Collective]) -> list[Collective]:
    """Those of equal layers as one, with their calls added up."""
    calls: dict[Collective, int] = {}
    for one in collectives:
        key = replace(one, calls=0)
        calls[key] = calls.get(key, 0) + one.calls
    return [replace(one, calls=number) for one, number in calls.items()]
