"""What a rank holds, read off the model that Megatron built for it.

The one idea: parameters are counted where they are, each as the part of the model that it is
(`tst_megatron.stock.experts`). Widths, from which activations and products follow, are the shapes
of the weights. What a method adds to a layer is added to what was counted.
"""

import argparse
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tst_megatron.errors import UserError
from tst_megatron.methods.terms import Terms
from tst_megatron.planner.fake_ranks import as_rank, build_unchanged, on_meta_device
from tst_megatron.planner.flags import quiet
from tst_megatron.stock.experts import copies, is_experts

KINDS = (
    "embedding",
    "attention",
    "dense_mlp",
    "router",
    "experts",
    "shared_experts",
    "norms",
    "head",
)


@dataclass(frozen=True)
class KindCount:
    """Parameters of one kind, of a layer or of what stands around the layers.

    Attributes:
        kind: one of `KINDS`, or one that a method adds.
        local: numbers on this rank.
        local_products: those of them that are weights of matrix products.
        whole: numbers in the whole model; 0 for a copy of what another stage holds.
        products: weights of matrix products in the whole model, a copy's included.
    """

    kind: str
    local: int
    local_products: int
    whole: int
    products: int


@dataclass(frozen=True)
class Attention:
    """Widths of a self-attention on this rank.

    Attributes:
        qkv: queries, keys and values of a position.
        queries: of these, queries.
        heads: query heads.
    """

    qkv: int
    queries: int
    heads: int

    @property
    def keys(self) -> int:
        """Keys of a position, or values."""
        return (self.qkv - self.queries) // 2


@dataclass(frozen=True)
class Mlp:
    """Widths of an MLP on this rank: what goes into the activation function, and what leaves it."""

    before: int
    after: int


@dataclass(frozen=True)
class Experts:
    """A mixture of experts on this rank.

    Attributes:
        num: experts of the layer.
        num_local: of these, on this rank.
        top_k: that a position goes to.
        widths: of one expert.
        shared: the expert of all positions, if there is one.
    """

    num: int
    num_local: int
    top_k: int
    widths: Mlp
    shared: Mlp | None


@dataclass(frozen=True)
class Layer:
    """One layer on one rank; equal layers compare equal."""

    counts: tuple[KindCount, ...]
    attention: Attention | None
    mlp: Mlp | None
    experts: Experts | None


@dataclass(frozen=True)
class Chunk:
    """A model chunk: a pipeline stage, or a virtual stage of it.

    Attributes:
        layers: in order.
        embedding: the tables before the first layer, where they are.
        head: final norm and LM head, where they are.
        first_layer: the number of its first layer in the whole model, from 0.
    """

    layers: tuple[Layer, ...]
    embedding: tuple[KindCount, ...] = ()
    head: tuple[KindCount, ...] = ()
    first_layer: int = 0

    @property
    def numbered_layers(self) -> Iterator[tuple[int, Layer]]:
        """Every layer with its number in the whole model."""
        return enumerate(self.layers, self.first_layer)

    @property
    def counts(self) -> Iterator[KindCount]:
        """All that the chunk holds."""
        yield from self.embedding
        for layer in self.layers:
            yield from layer.counts
        yield from self.head


@dataclass(frozen=True)
class PipelineStage:
    """A pipeline stage, as the first of its ranks holds it; the others' shards are of its shapes.

    Attributes:
        ranks: those of the stage, which Megatron numbers in a row (``tp-cp-ep-dp-pp``).
        chunks: one, or one a virtual stage.
    """

    ranks: range
    chunks: tuple[Chunk, ...]

    @property
    def counts(self) -> Iterator[KindCount]:
        """All that one rank of the stage holds."""
        for chunk in self.chunks:
            yield from chunk.counts

    @property
    def parameters(self) -> int:
        """Numbers on one rank."""
        return sum(one.local for one in self.counts)

    @property
    def expert_parameters(self) -> int:
        """Of these, the experts'."""
        return sum(one.local for one in self.counts if one.kind == "experts")


@dataclass(frozen=True)
class Parameters:
    """Parameters of the whole model, each counted once.

    Attributes:
        total: all of them.
        active: that work on one position: of the experts those it goes to, with the LM head and
            without the input embedding.
        embedding: of the input embedding.
        by_kind: kind → numbers; tied tables are the embedding's.
    """

    total: int
    active: int
    embedding: int
    by_kind: dict[str, int]


def count_stages(args: argparse.Namespace) -> tuple[PipelineStage, ...]:
    """Build every pipeline stage and count it.

    Args:
        args: Megatron's validated arguments.

    Raises:
        UserError: Megatron refuses to build the model.
    """
    size = args.world_size // args.pipeline_model_parallel_size
    stages = []
    for first in range(0, args.world_size, size):
        with quiet(), as_rank(args, first), on_meta_device():
            try:
                models = build_unchanged(args)
            except (AssertionError, ValueError) as error:
                raise UserError(
                    f"Megatron does not build this model: {' '.join(str(error).split())}"
                ) from None
            chunks = tuple(count_chunk(args, model) for model in models)
        stages.append(PipelineStage(range(first, first + size), chunks))
    return _numbered(stages)


def with_added(
    args: argparse.Namespace, pipeline: Sequence[PipelineStage], terms: Terms
) -> tuple[PipelineStage, ...]:
    """The stages with what a run's methods add to their layers and to the embedding.

    Args:
        args: Megatron's validated arguments.
        pipeline: as Megatron's modules were counted.
        terms: of the run's methods.
    """
    return tuple(
        dataclasses.replace(
            stage, chunks=tuple(_chunk_with_added(args, chunk, terms) for chunk in stage.chunks)
        )
        for stage in pipeline
    )


def _chunk_with_added(args: argparse.Namespace, chunk: Chunk, terms: Terms) -> Chunk:
    layers = (
        _layer_with_added(layer, terms.layer_weights(args, number))
        for number, layer in chunk.numbered_layers
    )
    return dataclasses.replace(
        chunk, layers=tuple(layers), embedding=_tables_with_added(args, chunk.embedding, terms)
    )


def _tables_with_added(
    args: argparse.Namespace, tables: tuple[KindCount, ...], terms: Terms
) -> tuple[KindCount, ...]:
    """What stands before the first layer, where there is any of it."""
    numbers = terms.table_rows(args) * int(args.hidden_size)
    if not tables or not numbers:
        return tables
    own = numbers // int(args.tensor_model_parallel_size)
    return (*tables, KindCount("embedding", own, 0, numbers, 0))


def _layer_with_added(layer: Layer, added: Mapping[str, int]) -> Layer:
    found = {one.kind: one for one in layer.counts}
    for kind, numbers in added.items():
        before = found.get(kind, KindCount(kind, 0, 0, 0, 0))
        found[kind] = KindCount(
            kind,
            before.local + numbers,
            before.local_products + numbers,
            before.whole + numbers,
            before.products + numbers,
        )
    return dataclasses.replace(layer, counts=tuple(found.values())) if added else layer


def _numbered(stages: Sequence[PipelineStage]) -> tuple[PipelineStage, ...]:
    """Their chunks with the layers that come before: the first chunks of all stages come first."""
    chunks = [list(stage.chunks) for stage in stages]
    number = 0
    for virtual in range(len(chunks[0])):
        for of_stage in chunks:
            of_stage[virtual] = dataclasses.replace(of_stage[virtual], first_layer=number)
            number += len(of_stage[virtual].layers)
    return tuple(
        dataclasses.replace(stage, chunks=tuple(of_stage))
        for stage, of_stage in zip(stages, chunks, strict=True)
    )


def count_chunk(args: argparse.Namespace, model: Any) -> Chunk:
    """Count one model chunk, a ``GPTModel`` or ``HybridModel``."""
    decoder = model.decoder
    # The two models name it differently; stages before the last have none.
    norm = getattr(decoder, "final_layernorm", None) or getattr(decoder, "final_norm", None)
    seen: dict[Layer, Layer] = {}
    layers = [_count_layer(args, layer) for layer in decoder.layers]
    embedding: tuple[KindCount, ...] = ()
    head: tuple[KindCount, ...] = ()
    if model.pre_process:
        embedding = _kind_counts(args, "embedding", model.embedding)
    if model.post_process:
        head = (*_kind_counts(args, "norm", norm), _head(args, model))
    return Chunk(tuple(seen.setdefault(layer, layer) for layer in layers), embedding, head)


def whole_model(stages: Iterable[PipelineStage], args: argparse.Namespace) -> Parameters:
    """The whole model's parameters, from those of its stages."""
    by_kind = dict.fromkeys(KINDS, 0)
    for stage in stages:
        for one in stage.counts:
            by_kind[one.kind] = by_kind.get(one.kind, 0) + one.whole
    by_kind = {kind: number for kind, number in by_kind.items() if number}
    total, embedding = sum(by_kind.values()), by_kind["embedding"]
    idle = 0
    if args.num_experts:
        idle = by_kind["experts"] * (args.num_experts - args.moe_router_topk) // args.num_experts
    # A tied table works once more, as the head.
    head = 0 if args.untie_embeddings_and_output_weights else _table(args)
    return Parameters(total, total - embedding - idle + head, embedding, by_kind)


def _table(args: argparse.Namespace) -> int:
    return int(args.padded_vocab_size * args.hidden_size)


def _head(args: argparse.Namespace, model: Any) -> KindCount:
    weight = model.output_layer.weight
    tied = not args.untie_embeddings_and_output_weights
    local = 0 if weight is None else weight.numel()
    table = _table(args)
    return KindCount(
        "head",
        local=local,
        local_products=table // args.tensor_model_parallel_size,
        whole=0 if tied else table,
        products=table,
    )


def _count_layer(args: argparse.Namespace, layer: torch.nn.Module) -> Layer:
    attention = mlp = experts = None
    heads: Any = getattr(layer, "self_attention", None)
    if hasattr(heads, "linear_qkv"):
        queries = heads.linear_proj.weight.shape[1]
        attention = Attention(
            heads.linear_qkv.weight.shape[0], queries, queries // args.kv_channels
        )
    inner: Any = getattr(layer, "mlp", None)
    if hasattr(inner, "router"):
        shared = inner.shared_experts
        experts = Experts(
            num=args.num_experts,
            num_local=inner.num_local_experts,
            top_k=args.moe_router_topk,
            widths=_widths(inner.experts.local_experts[0]),
            shared=None if shared is None else _widths(shared),
        )
    elif hasattr(inner, "linear_fc1"):
        mlp = _widths(inner)
    return Layer(_kind_counts(args, "", layer), attention, mlp, experts)


def _widths(mlp: Any) -> Mlp:
    return Mlp(mlp.linear_fc1.weight.shape[0], mlp.linear_fc2.weight.shape[1])


def _kind_counts(
    args: argparse.Namespace, prefix: str, module: torch.nn.Module
) -> tuple[KindCount, ...]:
    found: dict[str, KindCount] = {}
    for inner, parameter in module.named_parameters():
        name = f"{prefix}.{inner}"
        kind = _kind(name, parameter)
        local = parameter.numel()
        whole = local * copies(args, name, parameter)
        is_product = parameter.dim() == 2 and kind != "embedding"
        before = found.get(kind, KindCount(kind, 0, 0, 0, 0))
        found[kind] = KindCount(
            kind,
            before.local + local,
            before.local_products + local * is_product,
            before.whole + whole,
            before.products + whole * is_product,
        )
    return tuple(found.values())


def _kind(name: str, parameter: torch.Tensor) -> str:
    if name.startswith("embedding."):
        return "embedding"
    if "norm" in name.rpartition(".mlp.")[2] and parameter.dim() == 1:
        return "norms"
    if is_experts(name):
        return "experts"
    for kind, place in (
        ("shared_experts", ".shared_experts."),
        ("router", ".router."),
        ("attention", ".self_attention."),
        ("dense_mlp", ".mlp."),
    ):
        if place in name:
            return kind
    return "norms"
