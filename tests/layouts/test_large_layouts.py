"""Recipe-sized models on up to 1,024 ranks: what our builders make on each, against Megatron's.

These are checks of construction: shapes, names, classes and shards. Nothing is computed here, in
FP8 or otherwise, and no kernel of Transformer Engine's runs.
"""

import re
from collections.abc import Iterator
from math import prod
from typing import Any

import pytest
from fake_ranks import (
    LOCAL,
    TRANSFORMER_ENGINE,
    as_rank,
    build,
    flags_of,
    megatron_args,
    pretended_gpu,
    shards,
)
from layouts import (
    DENSE_LAYOUTS,
    MOE_LAYOUTS,
    Layout,
    Rank,
    first_of_stage,
    others_of_stage,
)
from megatron.core import mpu
from megatron.core.tensor_parallel.layers import VocabParallelEmbedding
from shapes import DENSE, DENSE_HYBRID, MOE, MOE_HYBRID, Shape, of_recipe

from tst_megatron.methods.superposition.embedding import SuperposedVocabParallelEmbedding
from tst_megatron.methods.superposition.model import SuperpositionMixin

_ONE = Layout(1)
_CASES = [
    *((DENSE, layout) for layout in DENSE_LAYOUTS),
    *((MOE, layout) for layout in MOE_LAYOUTS),
    *((DENSE_HYBRID, layout) for layout in (_ONE, Layout(64, tp=2, pp=4))),
    (DENSE_HYBRID, Layout(1024, tp=4, pp=4, chunks=3)),
    *((MOE_HYBRID, layout) for layout in (Layout(64, ep=64), Layout(1024, tp=2, pp=8, ep=64))),
]

_ONLY_TRANSFORMER_ENGINE = (
    "Context parallelism is only supported by TEDotProductAttention!",
    # The CPU backend's hybrid layers have no norm of queries and keys.
    "qk_layernorm requires Transformer Engine",
)


def _id(case: Any) -> str:
    return case.name if isinstance(case, Shape) else str(case)


@pytest.mark.parametrize(
    ("recipe", "num_parameters"),
    [
        ("smollm2-270m-tst", 253_954_368),
        ("smollm2-600m-tst", 560_886_720),
        ("smollm3-3b-tst", 3_337_766_912),
        ("moe-10b-a1b-tst", 10_388_481_536),
        ("moe-20b-a3b-baseline", 20_386_039_808),
    ],
)
def test_a_recipes_model_is_as_large_as_its_file_says(recipe: str, num_parameters: int) -> None:
    assert of_recipe(recipe, recipe).num_parameters == num_parameters


def test_a_tenth_of_the_experts_model_works_on_a_token() -> None:
    assert MOE.num_active_parameters == 1_095_411_200


@pytest.mark.parametrize(("shape", "layout"), _CASES, ids=_id)
def test_megatrons_own_modules(shape: Shape, layout: Layout) -> None:
    try:
        _check(shape, layout, LOCAL)
    except (AssertionError, ValueError) as error:
        # Megatron's own refusals, of what only Transformer Engine's modules can do.
        if not str(error).startswith(_ONLY_TRANSFORMER_ENGINE):
            raise
        pytest.skip(f"Megatron: {error}")


@pytest.mark.parametrize("layout", [_ONE, Layout(64, tp=2, pp=4)], ids=_id)
@pytest.mark.parametrize("shape", [DENSE], ids=_id)
def test_multi_token_prediction(shape: Shape, layout: Layout) -> None:
    """Its stage has an embedding too, and it is the first stage's."""
    num_parameters = shape.num_parameters + shape.num_parameters_of_prediction_layer
    _check(shape, layout, (*LOCAL, "--mtp-num-layers=1"), num_parameters)


@pytest.mark.usefixtures("transformer_engine")
@pytest.mark.parametrize(("shape", "layout"), _CASES, ids=_id)
def test_transformer_engines_modules(shape: Shape, layout: Layout) -> None:
    _check(shape, layout, TRANSFORMER_ENGINE)


_FP8_CASES = [
    (DENSE, Layout(1024, tp=4, pp=4, cp=4)),
    (MOE, Layout(1024, tp=4, pp=4, ep=64)),
    (DENSE_HYBRID, Layout(64, tp=2, pp=4)),
    (MOE_HYBRID, Layout(64, pp=2, ep=32)),
]
_FP8_RECIPES = {
    "delayed": "DelayedScaling",
    "tensorwise": "Float8CurrentScaling",
    "blockwise": "Float8BlockScaling",
    "mxfp8": "MXFP8BlockScaling",
}
_ENDS_IN_BF16 = (
    "--first-last-layers-bf16",
    *("--num-layers-at-start-in-bf16=1", "--num-layers-at-end-in-bf16=1"),
)


def _with_fp8(recipe: str) -> tuple[str, ...]:
    return (*TRANSFORMER_ENGINE, "--fp8-format=hybrid", f"--fp8-recipe={recipe}")


@pytest.mark.usefixtures("transformer_engine")
@pytest.mark.parametrize("recipe", _FP8_RECIPES)
@pytest.mark.parametrize(("shape", "layout"), _FP8_CASES, ids=_id)
def test_fp8_settings(shape: Shape, layout: Layout, recipe: str) -> None:
    """Weights in bf16, cast as they are used: what is built is the bf16 model."""
    (last_stage,) = _check(shape, layout, _with_fp8(recipe))
    assert _FP8_RECIPES[recipe] in _fp8_recipe(last_stage)
    assert not _fp8_layers(last_stage)


@pytest.mark.usefixtures("transformer_engine")
@pytest.mark.parametrize(
    ("recipe", "ends"),
    [
        *((recipe, ()) for recipe in _FP8_RECIPES),
        *((recipe, _ENDS_IN_BF16) for recipe in _FP8_RECIPES if recipe != "delayed"),
    ],
)
@pytest.mark.parametrize(("shape", "layout"), [_FP8_CASES[0], _FP8_CASES[-1]], ids=_id)
def test_fp8_weights(shape: Shape, layout: Layout, recipe: str, ends: tuple[str, ...]) -> None:
    """The layers that will hold FP8 weights are the stock model's; ours are never among them.

    On the meta device the weights themselves still are bf16: Transformer Engine casts them as it
    fills them, with a kernel that needs a GPU. So this sees the choice, and not the cast.
    """
    (last_stage,) = _check(shape, layout, (*_with_fp8(recipe), "--fp8-param-gather", *ends))
    layers = len(last_stage.decoder.layers)
    assert _fp8_layers(last_stage) == set(range(layers - 1 if ends else layers))


@pytest.mark.usefixtures("transformer_engine")
def test_megatron_refuses_delayed_scaling_with_ends_in_bf16() -> None:
    """Why the test above leaves that pair out."""
    with pytest.raises(ValueError, match="Delayed scaling does not support first / last layer"):
        _check(DENSE, _ONE, (*_with_fp8("delayed"), *_ENDS_IN_BF16))


def _fp8_recipe(model: Any) -> str:
    from megatron.core.fp8_utils import get_fp8_recipe

    return type(get_fp8_recipe(model.config)).__name__


def _fp8_layers(model: Any) -> set[int]:
    """Layers of the decoder of which some weights will be FP8; nothing outside them may be."""
    paths = _fp8_modules(model)
    assert all(path.startswith("decoder.layers.") for path in paths)
    return {int(path.split(".")[2]) for path in paths}


def _fp8_modules(model: Any) -> set[str]:
    return {
        path
        for path, module in model.named_modules()
        if getattr(module, "primary_weights_in_fp8", False)
    }


def _check(
    shape: Shape, layout: Layout, implementation: tuple[str, ...], num_parameters: int | None = None
) -> list[Any]:
    """Build the distinct ranks, compare each with stock, and add their shards up.

    Returns:
        The chunks of the last rank that was built, on the last pipeline stage.
    """
    with_te = implementation[0] == TRANSFORMER_ENGINE[0]
    counts = _Counts(layout)
    flags = (*flags_of(shape, layout), *implementation)
    with pretended_gpu(with_te), megatron_args(flags, layout.num_ranks) as args:
        for rank in _ranks(layout):
            with as_rank(args, rank):
                assert rank == _by_megatron(rank.rank)
                ours, stock = build(args, superposed=True), build(args, superposed=False)
                for chunk, (mine, theirs) in enumerate(zip(ours, stock, strict=True)):
                    held = shards(mine)
                    _is_stock_but_for_bags(mine, theirs, held)
                    _reads_bags_where_it_should(mine, args, rank, chunk)
                    counts.add(rank, chunk, held)
    assert counts.total() == (num_parameters or shape.num_parameters)
    return ours


def _ranks(layout: Layout) -> Iterator[Rank]:
    for stage in range(layout.pp):
        yield first_of_stage(layout, stage)
        if stage in (0, layout.pp - 1):
            yield from others_of_stage(layout, stage)


def _by_megatron(rank: int) -> Rank:
    return Rank(
        rank,
        mpu.get_tensor_model_parallel_rank(),
        mpu.get_pipeline_model_parallel_rank(),
        mpu.get_expert_model_parallel_rank(),
        mpu.get_expert_tensor_parallel_rank(),
    )


def _is_stock_but_for_bags(mine: Any, theirs: Any, held: dict[str, list]) -> None:
    """Same modules, parameters, attributes of parameters and shards; two classes differ."""
    assert _parameters(mine) == _parameters(theirs)
    assert _buffers(mine) == _buffers(theirs)
    assert _fp8_modules(mine) == _fp8_modules(theirs)
    assert _shards_as_values(held) == _shards_as_values(shards(theirs))
    modules, stock_modules = dict(mine.named_modules()), dict(theirs.named_modules())
    assert modules.keys() == stock_modules.keys()
    changed = {path for path in modules if type(modules[path]) is not type(stock_modules[path])}
    superposed = {
        path
        for path in changed
        if type(modules[path]).__module__.startswith("tst_megatron.methods.superposition.")
    }
    assert changed == superposed
    assert all(isinstance(modules[path], type(stock_modules[path])) for path in changed)
    assert {path for path in changed if not path.startswith("mtp")} == {
        path for path in ("", "embedding.word_embeddings") if path in modules
    }


def _parameters(model: Any) -> dict[str, tuple]:
    return {
        name: (
            *(type(value), value.shape, value.dtype, value.device, value.requires_grad),
            *sorted((key, str(own)) for key, own in vars(value).items() if _is_plain(own)),
        )
        for name, value in model.named_parameters()
    }


def _is_plain(value: Any) -> bool:
    """Whether it says something about a parameter: tensors and methods differ by address alone."""
    return isinstance(value, bool | int | float | str | tuple | type(None))


def _buffers(model: Any) -> dict[str, tuple]:
    return {name: (value.shape, value.dtype) for name, value in model.named_buffers()}


def _shards_as_values(held: dict[str, list]) -> dict[str, list[tuple]]:
    return {
        name: [
            (part.key, part.dtype, part.global_shape, part.global_offset, part.replica_id)
            for part in parts
        ]
        for name, parts in held.items()
    }


def _reads_bags_where_it_should(model: Any, args: Any, rank: Rank, chunk: int) -> None:
    chunks = args.virtual_pipeline_model_parallel_size or 1
    is_first = rank.pp == 0 and chunk == 0
    is_last = rank.pp == args.pipeline_model_parallel_size - 1 and chunk == chunks - 1
    # Megatron puts the prediction layers on the last stage unless a layout string says otherwise.
    has_embedding = is_first or (is_last and bool(args.mtp_num_layers))
    tables = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, VocabParallelEmbedding)
    }
    assert list(tables) == (["embedding.word_embeddings"] if has_embedding else [])
    for table in tables.values():
        assert type(table) is SuperposedVocabParallelEmbedding
        size = args.padded_vocab_size // args.tensor_model_parallel_size
        assert table.vocab_start_index == rank.tp * size
        assert table.vocab_end_index == (rank.tp + 1) * size
        assert table.weight.shape == (size, args.hidden_size)
    assert model.pre_process == is_first
    assert model.post_process == is_last == hasattr(model, "output_layer")
    loss = type(model).compute_language_model_loss
    assert loss is SuperpositionMixin.compute_language_model_loss


class _Counts:
    """The parameters of the whole job, from those of the ranks that were built.

    A parameter is split over the tensor ranks, or an expert over the expert ranks, if a rank
    further along those axes holds another part of it than the first does. That is seen on the first
    and the last stage, and holds for those between, which have the same layers.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._held: dict[tuple, tuple[str, int]] = {}
        self._first: dict[tuple[int, int], dict[str, list]] = {}
        self._split: set[str] = set()

    def add(self, rank: Rank, chunk: int, held: dict[str, list]) -> None:
        if rank == first_of_stage(self._layout, rank.pp):
            self._first[rank.pp, chunk] = held
            for name, parts in held.items():
                # By its place: what several stages hold, such as a shared table, is one parameter.
                numel = sum(prod(part.local_shape) for part in parts)
                self._held[_place(parts)] = (_kind(name), numel)
            return
        first = self._first[rank.pp, chunk]
        split = {name for name, parts in held.items() if _place(parts) != _place(first[name])}
        self._split |= {_kind(name) for name in split}
        if rank == others_of_stage(self._layout, rank.pp)[-1]:
            _reach_from_start_to_end(split, first, held)

    def total(self) -> int:
        return sum(numel * self._num_parts(kind) for kind, numel in self._held.values())

    def _num_parts(self, kind: str) -> int:
        if kind not in self._split:
            return 1
        if ".experts." in kind:
            return self._layout.ep * self._layout.etp
        return self._layout.tp


def _kind(name: str) -> str:
    """A parameter's name without the numbers of its layer and expert."""
    return re.sub(r"\d+", "N", name)


def _place(parts: list) -> tuple:
    return tuple((part.key, part.global_offset, part.local_shape) for part in parts)


def _reach_from_start_to_end(
    split: set[str], first: dict[str, list], last: dict[str, list]
) -> None:
    """Along each axis that is split, the first rank starts at 0 and the last rank ends at the end.

    All parameters of a tensor count together: a rank's experts are several parameters, and so are
    the halves of SwiGLU.
    """
    starts, ends, sizes = {}, {}, {}
    for name in split:
        for mine, theirs in zip(first[name], last[name], strict=True):
            lengths = (*(1,) * theirs.prepend_axis_num, *theirs.local_shape)
            for axis, length in enumerate(lengths):
                if mine.global_offset[axis] != theirs.global_offset[axis]:
                    at = mine.key, axis
                    sizes[at] = theirs.global_shape[axis]
                    starts[at] = min(starts.get(at, sizes[at]), mine.global_offset[axis])
                    ends[at] = max(ends.get(at, 0), theirs.global_offset[axis] + length)
    assert set(starts.values()) <= {0}
    assert ends == sizes
