"""What a forward pass keeps for the backward pass, by layer, in bytes on one GPU.

The one idea: a list of the tensors that autograd holds on to, each with why it is there and which
``--recompute-modules`` would compute it again. The list is that of Transformer Engine's modules
(its functions' ``save_for_backward``) around Megatron's own code; the tests hold it against what
real layers of Megatron's save. Tensors that share memory count once.

Letters: n positions of a micro-batch on this rank (b · L/cp), r of them in the residual stream
(n/tp with sequence parallelism), h hidden, E experts, k of them for a position, T = r · k copies of
positions that reach this rank's experts where routing is balanced.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from tst_megatron.methods.terms import Kept
from tst_megatron.planner.counts import Chunk, Experts, Layer, Mlp
from tst_megatron.planner.precision import Precision

_STATISTIC = 4  # Norms, softmax and router keep float32.
_INDEX = 8

# Where --recompute-modules says nothing (megatron/core/transformer/transformer_config.py).
_SELECTIVE = ("core_attn",)


@dataclass(frozen=True)
class Saved:
    """One tensor that waits for the backward pass.

    Attributes:
        what: in words.
        num_bytes: of a micro-batch.
        modules: of ``--recompute-modules``, those that let it go.
    """

    what: str
    num_bytes: int
    modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recomputation:
    """Megatron's recomputation flags.

    Attributes:
        granularity: ``full``, ``selective`` or None.
        method: ``uniform`` or ``block``, of full recomputation.
        num_layers: layers a group, or layers of a chunk that are recomputed.
        modules: of selective recomputation.
    """

    granularity: str | None = None
    method: str | None = None
    num_layers: int = 1
    modules: tuple[str, ...] = ()

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Recomputation":
        """As the run's flags have it."""
        if args.recompute_granularity is None:
            return NONE
        if args.recompute_granularity == "full":
            return cls("full", args.recompute_method, args.recompute_num_layers or 1)
        return cls("selective", modules=tuple(args.recompute_modules or _SELECTIVE))

    def __str__(self) -> str:
        if self.granularity == "full":
            return f"full, {self.method} {self.num_layers}"
        return "none" if self.granularity is None else f"selective: {', '.join(self.modules)}"


NONE = Recomputation()
FULL = Recomputation("full", "uniform", 1)


@dataclass(frozen=True)
class Held:
    """Bytes of a model chunk.

    Attributes:
        per_microbatch: kept by every micro-batch in flight.
        at_once: made again in the backward pass, by the one micro-batch that is in it.
    """

    per_microbatch: int
    at_once: int


class Activations:
    """The activations of one run's layers.

    Args:
        args: Megatron's validated arguments.
        precision: bytes of numbers.
    """

    def __init__(self, args: argparse.Namespace, precision: Precision) -> None:
        self._args = args
        self._precision = precision
        self.positions = args.micro_batch_size * args.seq_length // args.context_parallel_size
        split = args.tensor_model_parallel_size if args.sequence_parallel else 1
        self.stream_positions = self.positions // split
        self._stream = 4 if args.fp32_residual_connection else precision.compute
        self._saved: dict[Layer, list[Saved]] = {}

    def held(
        self,
        chunk: Chunk,
        recomputation: Recomputation,
        keeps: Callable[[int], Kept] = lambda _: Kept(),
    ) -> Held:
        """What a model chunk keeps.

        Args:
            chunk: of the model.
            recomputation: what is made again.
            keeps: what a layer keeps beside the plain one, by its number in the whole model.
        """
        layers = [
            _as_kept(self.saved_by_layer(layer), keeps(number))
            for number, layer in chunk.numbered_layers
        ]
        around = _total(self.saved_by_head()) if chunk.head else 0
        if recomputation.granularity == "full":
            held = self._fully_recomputed(layers, recomputation)
        else:
            modules = set(recomputation.modules)
            kept = [[s for s in layer if not modules & set(s.modules)] for layer in layers]
            pairs = zip(layers, kept, strict=True)
            again = max((_total(all_) - _total(some) for all_, some in pairs), default=0)
            held = Held(sum(map(_total, kept)), again)
        return Held(held.per_microbatch + around, held.at_once)

    def _fully_recomputed(
        self, layers: Sequence[list[Saved]], recomputation: Recomputation
    ) -> Held:
        entry = self._stream_bytes
        if self._args.distribute_saved_activations:
            entry //= self._args.tensor_model_parallel_size
        totals = [_total(layer) for layer in layers]
        size = recomputation.num_layers
        if recomputation.method == "block":
            # The first layers of the chunk; the others keep all.
            return Held(
                entry * min(size, len(totals)) + sum(totals[size:]),
                max(totals[:size], default=0),
            )
        groups = [totals[first : first + size] for first in range(0, len(totals), size)]
        return Held(entry * len(groups), max(map(sum, groups), default=0))

    @property
    def _stream_bytes(self) -> int:
        return self.stream_positions * self._args.hidden_size * self._stream

    def saved_by_head(self) -> list[Saved]:
        """The final norm and the LM head, without the logits."""
        rows, hidden = self.stream_positions, self._args.hidden_size
        return [
            Saved("input of the final norm", self._stream_bytes),
            Saved("statistics of the final norm", rows * _STATISTIC),
            Saved("input of the LM head", rows * hidden * self._precision.compute),
        ]

    def saved_by_layer(self, layer: Layer) -> list[Saved]:
        """One layer without recomputation."""
        if layer not in self._saved:
            self._saved[layer] = self._of_layer(layer)
        return self._saved[layer]

    def _of_layer(self, layer: Layer) -> list[Saved]:
        saved: list[Saved] = []
        if layer.attention is not None:
            saved += self._attention(layer)
        if layer.mlp is not None:
            saved += self._mlp(layer.mlp)
        if layer.experts is not None:
            saved += self._experts(layer)
        return [one for one in saved if one.num_bytes]

    def _attention(self, layer: Layer) -> list[Saved]:
        args, attention = self._args, layer.attention
        assert attention is not None
        n, compute = self.positions, self._precision.compute
        rotates = args.position_embedding_type != "none" and (
            args.position_embedding_type != "learned_absolute"
        )
        rotated = attention.queries + attention.keys
        kv_heads = attention.keys // args.kv_channels
        tables = args.seq_length // args.context_parallel_size * args.kv_channels * compute
        return [
            *self._norm("attention"),
            self._linear_input("queries, keys and values", self._normed),
            # The values are a view of what the projection gave, and keep all of it.
            Saved("queries, keys and values", n * attention.qkv * compute),
            *(
                [
                    Saved("input of the norm of queries and keys", n * rotated * compute),
                    Saved(
                        "statistics of the norm of queries and keys",
                        n * (attention.heads + kv_heads) * _STATISTIC,
                    ),
                ]
                if args.qk_layernorm
                else ()
            ),
            *(
                [
                    Saved("rotated queries and keys", n * rotated * compute),
                    # Sine and cosine, for queries and for keys, where no kernel makes them.
                    Saved("angles", 0 if args.apply_rope_fusion else 4 * tables),
                ]
                if rotates
                else ()
            ),
            Saved("output of attention", n * attention.queries * compute),
            Saved("statistics of the softmax", n * attention.heads * _STATISTIC, ("core_attn",)),
            Saved(
                "output of attention in FP8",
                self._precision.quantized(n * attention.queries) if self._precision.fp8 else 0,
            ),
            self._dropout_mask(),
        ]

    def _mlp(self, widths: Mlp) -> list[Saved]:
        entry, *rest = self._norm("MLP")
        again = [
            *rest,
            self._linear_input("MLP", self._normed),
            *self._activation_function(widths, self.positions, "MLP"),
        ]
        return [
            entry,
            *(Saved(one.what, one.num_bytes, (*one.modules, "mlp")) for one in again),
            self._dropout_mask(),
        ]

    def _experts(self, layer: Layer) -> list[Saved]:
        args, experts = self._args, layer.experts
        assert experts is not None
        rows, hidden, compute = self.stream_positions, args.hidden_size, self._precision.compute
        copies = rows * experts.top_k * args.expert_tensor_parallel_size
        again = [
            *self._router(rows, experts),
            Saved("order of positions", self._permutation(rows, experts.num, experts.top_k)),
            self._linear_input("experts", copies * hidden),
            Saved("weights of positions", copies * _STATISTIC),
            *self._activation_function(
                experts.widths, copies, "experts", ("moe_act",), weighted=True
            ),
            *self._shared_expert(experts.shared),
        ]
        return [
            *self._norm("experts"),
            # Read by router and dispatcher, so that a norm of its own makes it.
            Saved("input of the router", rows * hidden * compute, ("layernorm",)),
            *(Saved(one.what, one.num_bytes, (*one.modules, "moe")) for one in again),
            self._dropout_mask(),
        ]

    def _shared_expert(self, widths: Mlp | None) -> list[Saved]:
        if widths is None:
            return []
        saved = [
            Saved(
                "input of the shared expert in FP8",
                self._precision.quantized(self._normed) if self._precision.fp8 else 0,
            ),
            *self._activation_function(widths, self.positions, "shared expert"),
        ]
        return [Saved(one.what, one.num_bytes, ("shared_experts",)) for one in saved]

    @property
    def _normed(self) -> int:
        return self.stream_positions * self._args.hidden_size

    def _router(self, rows: int, experts: Experts) -> list[Saved]:
        """In float32, of those chosen and of all: the router's own scores, and those of losses."""
        args = self._args
        kinds = args.moe_router_load_balancing_type
        losses = sum(
            kind not in ("none", "sinkhorn")
            for kind in ([kinds] if isinstance(kinds, str) else kinds)
        )
        sigmoid = args.moe_router_score_function == "sigmoid"
        scored_first = bool(args.moe_router_pre_softmax or sigmoid)
        # Softmax before the choice leaves nothing to be made of what was chosen.
        weighs = sigmoid or not scored_first
        of_z_loss = bool(args.moe_z_loss_coeff)
        per_position = (1 + losses if sigmoid else 0) + of_z_loss
        return [
            Saved("choice of experts", rows * experts.top_k * (1 + losses) * _INDEX),
            Saved("weights of experts", rows * experts.top_k * _STATISTIC * weighs),
            Saved(
                "scores of all experts",
                rows * experts.num * _STATISTIC * (losses + scored_first + of_z_loss),
            ),
            Saved("sums of scores", rows * _STATISTIC * per_position),
        ]

    def _permutation(self, rows: int, num_experts: int, top_k: int) -> int:
        if self._args.moe_permute_fusion:
            # int32 [r, 2E + 1] (transformer_engine/pytorch/triton/permutation.py).
            return rows * (2 * num_experts + 1) * 4
        # A view of an argsort of [E, r], and its selection (permute in moe_utils.py).
        return rows * (num_experts + top_k) * _INDEX

    def _norm(self, what: str) -> list[Saved]:
        return [
            Saved(f"input of the norm before {what}", self._stream_bytes),
            Saved(f"statistics of the norm before {what}", self.stream_positions * _STATISTIC),
        ]

    def _linear_input(self, what: str, numbers: int) -> Saved:
        return Saved(f"input of the projection to {what}", self._precision.quantized(numbers))

    def _activation_function(
        self,
        widths: Mlp,
        rows: int,
        what: str,
        modules: tuple[str, ...] = (),
        weighted: bool = False,
    ) -> list[Saved]:
        args, compute = self._args, self._precision.compute
        unfused = 0
        if args.swiglu and not args.bias_swiglu_fusion:
            # Both factors of the product, and what the router's weights multiply (mlp.py).
            unfused = rows * widths.after * compute * (3 if weighted else 2)
        return [
            Saved(f"input of the activation function of {what}", rows * widths.before * compute),
            Saved(f"parts of the activation function of {what}", unfused, modules),
            Saved(
                f"input of the projection from {what}",
                self._precision.quantized(rows * widths.after),
                modules,
            ),
        ]

    def _dropout_mask(self) -> Saved:
        return Saved("dropout mask", self._normed if self._args.hidden_dropout else 0)


def _as_kept(saved: list[Saved], kept: Kept) -> list[Saved]:
    """A layer's tensors where a method has it keep others."""
    if kept == Kept():
        return saved
    own = [replace(one, num_bytes=round(one.num_bytes * kept.share)) for one in saved]
    return [*own, Saved("of a method", kept.beside)] if kept.beside else own


def _total(saved: Iterable[Saved]) -> int:
    return sum(one.num_bytes for one in saved)
