"""Every recipe on every layout in every precision: Megatron's checks and ours, and the modules.

As everywhere in this folder, nothing is computed: no kernel runs, and no memory is measured.
"""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import pytest
from fake_ranks import NO_FILES, ON_META, as_rank, build, megatron_args, pretended_gpu
from layouts import Rank
from megatron.training.argument_utils import core_transformer_config_from_args
from shapes import of_recipe

from tst_megatron import recipes
from tst_megatron.errors import UserError
from tst_megatron.methods.registry import check_flags, run_of
from tst_megatron.methods.superposition.model import SuperpositionMixin
from tst_megatron.runs.stages import data_tokens
from tst_megatron.trainer import checks
from tst_megatron.trainer.machine import check_quantization

_MODELS = ("smollm2-270m", "smollm2-600m", "smollm3-3b", "moe-10b-a1b")
_LAYOUTS = ("8xh100", "64xh100", "8xb200", "64xb200")
_PRECISIONS = {
    "bf16": None,
    "fp8-delayed": "DelayedScaling",
    "fp8-tensorwise": "Float8CurrentScaling",
    "fp8-blockwise": "Float8BlockScaling",
    "mxfp8": "MXFP8BlockScaling",
}
_ELSEWHERE = {("fp8-blockwise", "b200"), ("mxfp8", "h100")}
_CAPABILITY = {"h100": (9, 0), "b200": (10, 0)}
_RECIPES = [
    *(f"{model}-{method}" for model in _MODELS for method in ("baseline", "tst")),
    "moe-20b-a3b-baseline",
]
_CASES = [
    f"{recipe}+{layout}+{precision}"
    for recipe in _RECIPES
    for layout in _LAYOUTS
    for precision in _PRECISIONS
    if (precision, layout.partition("x")[2]) not in _ELSEWHERE
]
# As HybridModels, each in a layout and a precision of its own.
_CASES += [
    f"{recipe}+{layout}+{precision}+hybrid"
    for recipe, layout, precision in zip(
        _RECIPES, _LAYOUTS * 3, ("bf16", "fp8-blockwise", "mxfp8", "fp8-delayed") * 3, strict=False
    )
    if (precision, layout.partition("x")[2]) not in _ELSEWHERE
]


@contextmanager
def _validated(name: str, more: Sequence[str] = ()) -> Iterator[Any]:
    """Megatron's arguments on as many ranks as the layout has GPUs, after its checks and ours."""
    recipe = recipes.read(name)
    assert recipe.machine is not None
    num_gpus, gpu = recipe.machine
    # Apex has a kernel that Megatron asks for, and is not here.
    flags = (*recipes.flags(recipe.values), *NO_FILES, "--no-gradient-accumulation-fusion", *more)
    with (
        patch("torch.cuda.get_device_capability", lambda *args: _CAPABILITY[gpu]),
        megatron_args(flags, num_gpus) as args,
    ):
        check_flags(args)
        checks.check_before_validation(args)
        yield args


@pytest.mark.parametrize("name", _CASES)
def test_megatron_takes_it(name: str) -> None:
    with _validated(name) as args:
        positions = args.global_batch_size * args.seq_length
        assert positions == (8 if "moe-10b" in name else 2) * 2**20
        assert (args.fp8 is not None) == ("fp8" in name)
        assert args.expert_model_parallel_size == (8 if "moe" in name else 1)


@pytest.mark.parametrize("layout", _LAYOUTS)
@pytest.mark.parametrize("precision", _PRECISIONS)
def test_a_precision_is_refused_on_a_gpu_without_it(layout: str, precision: str) -> None:
    name = f"smollm3-3b-tst+{layout}+{precision}"
    gpu = layout.partition("x")[2]
    if (precision, gpu) in _ELSEWHERE:
        with pytest.raises(UserError, match=f"{precision} needs .* {layout} is for {gpu}"):
            recipes.read(name)
    else:
        assert recipes.read(name).precision == precision


# arXiv 2605.06546, Table 1: steps superposed, steps, and billions of data tokens in either. The
# table has the last three as 1.05T, 1.68T and 2T.
_TABLE_1 = {
    "smollm2-270m-baseline": (0, 20_000, 0, 42),
    "smollm2-270m-tst": (6_000, 20_000, 75, 105),
    "smollm2-600m-baseline": (0, 20_000, 0, 42),
    "smollm2-600m-tst": (6_000, 20_000, 75, 105),
    "smollm3-3b-baseline": (0, 20_000, 0, 42),
    "smollm3-3b-baseline-equal-loss": (0, 36_000, 0, 75),
    "smollm3-3b-baseline-equal-data": (0, 50_000, 0, 105),
    "smollm3-3b-tst": (6_000, 20_000, 75, 105),
    "moe-10b-a1b-baseline": (0, 125_000, 0, 1049),
    "moe-10b-a1b-tst": (12_483, 49_983, 1675, 1990),
}


@pytest.mark.parametrize("name", _TABLE_1)
def test_steps_and_data_are_the_papers(name: str) -> None:
    with _validated(name) as args:
        run = run_of(args)
        batch, length, steps = args.global_batch_size, args.seq_length, args.train_iters
        # The decay is the last tenth of the steps.
        assert args.lr_wsd_decay_iters == round(steps / 10)
        assert args.lr_warmup_iters == 2000
    samples = sum(stage.samples for stage in run.stages if not stage.is_ordinary)
    superposed_steps = samples // batch
    superposed_tokens = data_tokens(run.stages, samples, length)
    tokens = data_tokens(run.stages, steps * batch, length)
    found = (superposed_steps, steps, round(superposed_tokens / 1e9), round(tokens / 1e9))
    assert found == _TABLE_1[name]


@pytest.mark.usefixtures("transformer_engine")
@pytest.mark.parametrize("name", _CASES)
def test_transformer_engines_modules(name: str) -> None:
    """The first rank holds its share of the model, and FP8 weights where the precision says so."""
    model, _, precision, *_ = name.split("+")
    with pretended_gpu(with_transformer_engine=True), _validated(name, [ON_META]) as args:
        config = core_transformer_config_from_args(args)
        # The dispatcher would put an index on the GPU that is not there.
        args.moe_permute_fusion = False
        superposed = bool(run_of(args).parts)
        with as_rank(args, Rank(0, 0, 0, 0, 0)):
            (built,) = build(args, superposed)
    experts = args.expert_model_parallel_size
    held = {name: value.numel() for name, value in built.named_parameters()}
    whole = sum(size * (experts if ".experts." in name else 1) for name, size in held.items())
    assert whole == of_recipe(model, model).num_parameters
    assert isinstance(built, SuperpositionMixin) == model.endswith("tst")
    _check_precision(built, config, _PRECISIONS[precision])


@pytest.mark.usefixtures("transformer_engine")
@pytest.mark.parametrize(
    ("capability", "missing"),
    [
        ((8, 0), {"delayed", "tensorwise", "blockwise", "mxfp8", "nvfp4"}),
        ((9, 0), {"mxfp8", "nvfp4"}),
        ((10, 0), set()),
    ],
)
def test_a_recipe_is_refused_on_a_gpu_without_it(
    capability: tuple[int, int], missing: set[str]
) -> None:
    from transformer_engine.pytorch import quantization

    kept = ("_FP8_SUPPORT", "_MXFP8_SUPPORT", "_FP8_BLOCK_SCALING_SUPPORT", "_NVFP4_SUPPORT")
    for recipe in ("delayed", "tensorwise", "blockwise", "mxfp8", "nvfp4"):
        kind = "fp4" if recipe == "nvfp4" else "fp8"
        args = Namespace(**({"fp8": None, "fp4": None} | {kind: "", f"{kind}_recipe": recipe}))
        with ExitStack() as stack:
            for name in kept:
                stack.enter_context(patch.object(quantization, name, None))
            answer = stack.enter_context(
                patch.object(quantization, "get_device_compute_capability")
            )
            answer.return_value = capability
            if recipe in missing:
                match = f"--{kind}-recipe {recipe} does not run on this GPU: .* compute capability"
                stack.enter_context(pytest.raises(UserError, match=match))
            check_quantization(args)


def _check_precision(model: Any, config: Any, transformer_engines: str | None) -> None:
    fp8 = {
        int(path.split(".")[2])
        for path, module in model.named_modules()
        if getattr(module, "primary_weights_in_fp8", False)
    }
    if transformer_engines is None:
        assert not fp8
        return
    from megatron.core.fp8_utils import get_fp8_recipe
    from megatron.core.models.hybrid.hybrid_model import HybridModel

    # Megatron's own class has its name in it.
    assert type(get_fp8_recipe(config)).__name__.endswith(transformer_engines)
    # A block, which a HybridModel counts as two layers.
    block = 2 if isinstance(model, HybridModel) else 1
    ends = 0 if transformer_engines == "DelayedScaling" else block
    assert fp8 == set(range(ends, config.num_layers - ends))
