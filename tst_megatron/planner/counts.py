"""What a rank holds, read off the model that Megatron built for it.

The one idea: parameters are counted where they are, by Megatron's own marks on them: split over
the tensor-parallel ranks (``tensor_model_parallel``), or an expert's (``allreduce``). Widths, from
which activations and products follow, are the shapes of the weights.
"""

import argparse
import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from tst_megatron.errors import UserError
from tst_megatron.planner.fake_ranks import as_rank, build, on_meta_device
from tst_megatron.planner.flags import quiet

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
class Part:
    """Parameters of one kind, of a layer or of what stands around the layers.

    Attributes:
        kind: one of `KINDS`.
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

    parts: tuple[Part, ...]
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
    """

    layers: tuple[Layer, ...]
    embedding: tuple[Part, ...] = ()
    head: tuple[Part, ...] = ()

    @property
    def parts(self) -> Iterator[Part]:
        """All that the chunk holds."""
        yield from self.embedding
        for layer in self.layers:
            yield from layer.parts
        yield from self.head


@dataclass(frozen=True)
class Stage:
    """A pipeline stage, as the first of its ranks holds it; the others' shards are of its shapes.

    Attributes:
        ranks: those of the stage, which Megatron numbers in a row (``tp-cp-ep-dp-pp``).
        chunks: one, or one a virtual stage.
    """

    ranks: range
    chunks: tuple[Chunk, ...]

    @property
    def parts(self) -> Iterator[Part]:
        """All that one rank of the stage holds."""
        for chunk in self.chunks:
            yield from chunk.parts

    @property
    def parameters(self) -> int:
        """Numbers on one rank."""
        return sum(part.local for part in self.parts)

    @property
    def expert_parameters(self) -> int:
        """Of these, the experts'."""
        return sum(part.local for part in self.parts if part.kind == "experts")


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


def count_stages(args: argparse.Namespace) -> tuple[Stage, ...]:
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
                models = build(args)
            except (AssertionError, ValueError) as error:
                raise UserError(
                    f"Megatron does not build this model: {' '.join(str(error).split())}"
                ) from None
            chunks = tuple(count_chunk(args, model) for model in models)
        stages.append(Stage(range(first, first + size), chunks))
    return tuple(stages)


def count_chunk(args: argparse.Namespace, model: Any) -> Chunk:
    """Count one model chunk, a ``GPTModel`` or ``HybridModel``."""
    decoder = model.decoder
    # The two models name it differently; stages before the last have none.
    norm = getattr(decoder, "final_layernorm", None) or getattr(decoder, "final_norm", None)
    seen: dict[Layer, Layer] = {}
    layers = [_count_layer(args, layer) for layer in decoder.layers]
    return Chunk(
        layers=tuple(seen.setdefault(layer, layer) for layer in layers),
        embedding=_parts(args, [("embedding", model.embedding)]) if model.pre_process else (),
        head=(*_parts(args, [("norm", norm)]), _head(args, model)) if model.post_process else (),
    )


def whole_model(stages: Iterable[Stage], args: argparse.Namespace) -> Parameters:
    """The whole model's parameters, from those of its stages."""
    by_kind = dict.fromkeys(KINDS, 0)
    for stage in stages:
        for part in stage.parts:
            by_kind[part.kind] += part.whole
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


def _head(args: argparse.Namespace, model: Any) -> Part:
    weight = model.output_layer.weight
    tied = not args.untie_embeddings_and_output_weights
    local = 0 if weight is None else weight.numel()
    table = _table(args)
    return Part(
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
    return Layer(_parts(args, [("", layer)]), attention, mlp, experts)


def _widths(mlp: Any) -> Mlp:
    return Mlp(mlp.linear_fc1.weight.shape[0], mlp.linear_fc2.weight.shape[1])


def _parts(
    args: argparse.Namespace, modules: Iterable[tuple[str, torch.nn.Module]]
) -> tuple[Part, ...]:
    parts: dict[str, Part] = {}
    for prefix, module in modules:
        for name, parameter in module.named_parameters():
            kind = _kind(f"{prefix}.{name}", parameter)
            local = parameter.numel()
            whole = local * _copies(args, parameter)
            is_product = parameter.dim() == 2 and kind != "embedding"
            before = parts.get(kind, Part(kind, 0, 0, 0, 0))
            parts[kind] = dataclasses.replace(
                before,
                local=before.local + local,
                local_products=before.local_products + local * is_product,
                whole=before.whole + whole,
                products=before.products + whole * is_product,
            )
    return tuple(parts.values())


def _kind(name: str, parameter: torch.Tensor) -> str:
    if name.startswith("embedding."):
        return "embedding"
    if "norm" in name.rpartition(".mlp.")[2] and parameter.dim() == 1:
        return "norms"
    for kind, place in (
        ("shared_experts", ".shared_experts."),
        ("experts", ".experts."),
        ("router", ".router."),
        ("attention", ".self_attention."),
        ("dense_mlp", ".mlp."),
    ):
        if place in name:
            return kind
    return "norms"


def _copies(args: argparse.Namespace, parameter: torch.Tensor) -> int:
    """Ranks that hold parts of the same parameter, or experts like it."""
    if not getattr(parameter, "allreduce", True):
        split = args.expert_tensor_parallel_size if parameter.tensor_model_parallel else 1
        return int(split * args.expert_model_parallel_size)
    is_split = getattr(parameter, "tensor_model_parallel", False)
    return int(args.tensor_model_parallel_size) if is_split else 1
