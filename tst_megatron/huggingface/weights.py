"""Which rows of Megatron's tensors each of Hugging Face's weights is.

The one idea: Megatron keeps in one tensor what Hugging Face keeps in several, and never turns or
mixes it: each weight is a list of ranges of rows of one tensor (of one layer, of one expert). So
one table says how to take a model out and how to bring one in.

Shapes: L layers, H hidden, n heads in G groups, d of a head, F units of an MLP, E experts, f units
of one, V tokens, and Vp rows of the padded vocabulary.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tst_megatron.checkpoints.keys import other_norm
from tst_megatron.errors import UserError
from tst_megatron.huggingface.shape import Shape

EMBEDDING = "embedding.word_embeddings.weight"
OUTPUT = "output_layer.weight"
FINAL_NORMS = ("decoder.final_layernorm.weight", "decoder.final_norm.weight")
"""Of a ``GPTModel`` and of a ``HybridModel``."""
_LAYERS = "decoder.layers."
_EXPERTS = "mlp.experts.experts."


@dataclass(frozen=True)
class Weight:
    """A tensor of Hugging Face's, and where it is in Megatron's.

    Attributes:
        name: Hugging Face's.
        shape: there.
        layer: number of its layer, in Hugging Face's count; None of what is in none.
        half: of the layer, which a hybrid model counts as two; None likewise.
        own: Megatron's key, without layer and expert.
        expert: its number.
        rows: ``(begin, end)`` in Megatron's tensor, in the order in which they are the weight's.
    """

    name: str
    shape: tuple[int, ...]
    layer: int | None
    half: Literal["attention", "mlp"] | None
    own: str
    expert: int | None
    rows: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Spelling:
    """What a family calls its experts.

    Attributes:
        router: within a layer.
        expert: what an expert's matrices begin with.
        gate: of an expert.
        up: likewise.
        down: likewise.
    """

    router: str
    expert: str
    gate: str
    up: str
    down: str


QWEN = Spelling("mlp.gate", "mlp.experts", "gate_proj", "up_proj", "down_proj")
MIXTRAL = Spelling("block_sparse_moe.gate", "block_sparse_moe.experts", "w1", "w3", "w2")


def weights_of(shape: Shape, spelling: Spelling = QWEN) -> Iterator[Weight]:
    """All weights of a model, in the order of its layers.

    Args:
        shape: of the model.
        spelling: of its experts.
    """
    vocabulary = (shape.vocab_size, shape.hidden_size)
    tokens = ((0, shape.vocab_size),)
    yield Weight("model.embed_tokens.weight", vocabulary, None, None, EMBEDDING, None, tokens)
    for layer in range(len(shape.layers)):
        yield from _attention(shape, layer)
        yield from _mlp(shape, layer, spelling)
    yield Weight(
        "model.norm.weight",
        (shape.hidden_size,),
        *(None, None, FINAL_NORMS[0], None),
        ((0, shape.hidden_size),),
    )
    if not shape.ties_embeddings:
        yield Weight("lm_head.weight", vocabulary, None, None, OUTPUT, None, tokens)


def _attention(shape: Shape, layer: int) -> Iterator[Weight]:
    before = f"model.layers.{layer}."
    hidden, size = shape.hidden_size, shape.head_size

    def weight(name: str, own: str, rows: Sequence[tuple[int, int]], *columns: int) -> Weight:
        number = sum(end - begin for begin, end in rows)
        return Weight(
            f"{before}{name}", (number, *columns), layer, "attention", own, None, tuple(rows)
        )

    yield weight(
        "input_layernorm.weight", "self_attention.linear_qkv.layer_norm_weight", [(0, hidden)]
    )
    # A group's queries, then its keys, then its values: [G, n/G + 2, d] (``get_query_key_value``
    # in megatron/core/transformer/attention.py).
    shares = shape.heads // shape.groups
    of_group = (shares + 2) * size
    begins = [group * of_group for group in range(shape.groups)]
    parts = {
        "q": [(begin, begin + shares * size) for begin in begins],
        "k": [(begin + shares * size, begin + (shares + 1) * size) for begin in begins],
        "v": [(begin + (shares + 1) * size, begin + of_group) for begin in begins],
    }
    for part, rows in parts.items():
        name, own = f"self_attn.{part}_proj", "self_attention.linear_qkv"
        yield weight(f"{name}.weight", f"{own}.weight", rows, hidden)
        if shape.has_qkv_bias:
            yield weight(f"{name}.bias", f"{own}.bias", rows)
    yield weight(
        "self_attn.o_proj.weight",
        "self_attention.linear_proj.weight",
        [(0, hidden)],
        shape.heads * size,
    )
    if shape.has_qk_norm:
        for part in "qk":
            yield weight(
                f"self_attn.{part}_norm.weight",
                f"self_attention.{part}_layernorm.weight",
                [(0, size)],
            )


def _mlp(shape: Shape, layer: int, spelling: Spelling) -> Iterator[Weight]:
    before = f"model.layers.{layer}."
    hidden = shape.hidden_size
    has_experts = shape.layers[layer].has_experts
    # As layers of either kind may have it (`keys.other_norm`).
    norm = "pre_mlp_layernorm.weight" if has_experts else "mlp.linear_fc1.layer_norm_weight"
    yield Weight(
        f"{before}post_attention_layernorm.weight",
        (hidden,),
        *(layer, "mlp", norm, None),
        ((0, hidden),),
    )
    if not has_experts:
        names = (f"{before}mlp.{name}_proj.weight" for name in ("gate", "up", "down"))
        yield from _swiglu(tuple(names), layer, "mlp.", None, hidden, shape.ffn_size)
        return
    assert shape.experts is not None
    number = shape.experts.number
    yield Weight(
        f"{before}{spelling.router}.weight",
        (number, hidden),
        *(layer, "mlp", "mlp.router.weight", None),
        ((0, number),),
    )
    for expert in range(number):
        names = (
            f"{before}{spelling.expert}.{expert}.{name}.weight"
            for name in (spelling.gate, spelling.up, spelling.down)
        )
        yield from _swiglu(tuple(names), layer, _EXPERTS, expert, hidden, shape.experts.ffn_size)


def _swiglu(
    names: tuple[str, ...], layer: int, own: str, expert: int | None, hidden: int, size: int
) -> Iterator[Weight]:
    """Gate, up and down: Megatron's first matrix is all of gate, then all of up."""
    first, second = f"{own}linear_fc1.weight", f"{own}linear_fc2.weight"
    parts = (
        (names[0], (size, hidden), first, (0, size)),
        (names[1], (size, hidden), first, (size, 2 * size)),
        (names[2], (hidden, size), second, (0, hidden)),
    )
    for name, shape, key, rows in parts:
        yield Weight(name, shape, layer, "mlp", key, expert, (rows,))


@dataclass(frozen=True)
class Place:
    """Where a weight's tensor is in a checkpoint.

    Attributes:
        key: of the tensor.
        offsets: of its leading axes, of layers and of experts, where it has them.
    """

    key: str
    offsets: tuple[int, ...]


class Places:
    """Finds weights in a checkpoint, whichever of Megatron's ways it has of keeping layers.

    Args:
        keys: of its tensors.
        is_hybrid: whether it is a ``HybridModel``'s, whose layers are attention or MLP.
    """

    def __init__(self, keys: Collection[str], is_hybrid: bool) -> None:
        self._keys = frozenset(keys)
        self._is_hybrid = is_hybrid

    def __getitem__(self, weight: Weight) -> Place:
        """Where a weight's tensor is.

        Raises:
            UserError: the checkpoint has none.
        """
        for key, offsets in self._possible(weight):
            if key in self._keys:
                return Place(key, offsets)
        raise UserError(
            f"the checkpoint has no {weight.own} for {weight.name}, which its arguments say that "
            "its model has: it is another model's, or was cut short"
        )

    def _possible(self, weight: Weight) -> Iterator[tuple[str, tuple[int, ...]]]:
        if weight.layer is None:
            names = FINAL_NORMS if weight.own in FINAL_NORMS else (weight.own,)
            yield from ((name, ()) for name in names)
            return
        number = weight.layer
        if self._is_hybrid:
            number = 2 * weight.layer + (weight.half == "mlp")
        other = other_norm(weight.own)
        for own in (weight.own, *([] if other is None else [other])):
            for key, behind in _with_expert(own, weight.expert):
                yield f"{_LAYERS}{number}.{key}", behind
                if not self._is_hybrid:
                    yield f"{_LAYERS}{key}", (number, *behind)


def _with_expert(own: str, expert: int | None) -> Iterator[tuple[str, tuple[int, ...]]]:
    if expert is None:
        yield own, ()
        return
    yield own, (expert,)
    yield own.replace(_EXPERTS, f"{_EXPERTS}{expert}."), ()
