"""What layers of Megatron's keep for the backward pass, measured, against the planner's list.

The layers run here with Megatron's own modules, fused as on a GPU, but for two kernels of
Transformer Engine's that need one. Its norm keeps its input and a number a row; in its place stands
one that keeps just these. FP8 is not measured.
"""

from typing import Any

import pytest
import torch
from planned import DENSE, MOE, built
from torch import Tensor

from tst_megatron.planner.activations import FULL, NONE, Activations, Recomputation
from tst_megatron.planner.fake_ranks import as_rank, build
from tst_megatron.planner.hardware import GPUS
from tst_megatron.planner.precision import Precision

_SEQUENCE_PARALLEL = ("--tensor-model-parallel-size=2", "--sequence-parallel")
_UNFUSED = ("--no-bias-swiglu-fusion",)


class _FusedNorm(torch.autograd.Function):
    """A norm that keeps what Transformer Engine's keeps."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, weight: Tensor) -> Tensor:
        value = value.contiguous()
        scale = (value.float().square().mean(-1, keepdim=True) + 1e-5).rsqrt()
        ctx.save_for_backward(value, weight, scale)
        return (value * scale).to(value.dtype) * weight


class _Norm(torch.nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, value: Tensor) -> Tensor:
        return _FusedNorm.apply(value, self.weight)


def _measured(args: Any) -> tuple[int, int]:
    """Bytes that the first layer of a real model keeps, and that its input has."""
    with as_rank(args, 0):
        (model,) = build(args)
        model = model.to_empty(device="cpu").bfloat16()
        for value in model.parameters():
            torch.nn.init.normal_(value, std=0.02)
        layer = model.decoder.layers[0]
        for module in list(layer.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, torch.nn.RMSNorm):
                    setattr(module, name, _Norm(child.weight))
        split = args.tensor_model_parallel_size if args.sequence_parallel else 1
        rows = args.seq_length // split
        entry = torch.randn(rows, args.micro_batch_size, args.hidden_size).bfloat16()
        parameters = {value.untyped_storage().data_ptr() for value in model.parameters()}
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                kept[storage.data_ptr()] = storage.nbytes()
                alive.append(tensor)
            return tensor

        # So that no memory is used, and counted, a second time.
        alive: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            layer(
                entry.requires_grad_(),
                attention_mask=None,
                rotary_pos_emb=model.rotary_pos_emb(args.seq_length),
            )
    # Sums over all positions, of the losses of the router.
    return sum(size for size in kept.values() if size > 128), entry.nbytes


@pytest.mark.parametrize(
    ("flags", "num_gpus"),
    [
        (DENSE, 1),
        ((*DENSE, "--qk-layernorm"), 1),
        ((*DENSE, *_UNFUSED), 1),
        ((*DENSE, *_SEQUENCE_PARALLEL), 2),
        ((*DENSE, "--tensor-model-parallel-size=2"), 2),
        (MOE, 1),
        ((*MOE, "--moe-router-load-balancing-type=none"), 1),
        ((*MOE, "--moe-router-pre-softmax"), 1),
        ((*MOE, "--moe-router-score-function=sigmoid"), 1),
        ((*MOE, "--moe-z-loss-coeff=1e-3"), 1),
        ((*MOE, *_UNFUSED), 1),
        ((*MOE, "--moe-shared-expert-intermediate-size=80"), 1),
    ],
    ids=lambda value: str(value)[-50:],
)
def test_what_a_layer_keeps(flags, num_gpus) -> None:
    with built((*flags, "--no-rope-fusion"), num_gpus) as (args, stages):
        activations = Activations(args, Precision.of(args, GPUS["h100"]))
        planned = sum(
            one.num_bytes for one in activations.saved_by_layer(stages[0].chunks[0].layers[0])
        )
        measured, _ = _measured(args)
    assert planned == measured


@pytest.mark.parametrize(
    "modules", [("core_attn",), ("mlp",), ("moe_act",), ("layernorm",), ("moe",)]
)
@pytest.mark.parametrize("flags", [DENSE, MOE], ids=["dense", "experts"])
def test_selective_recomputation_lets_go_of_a_part(flags, modules) -> None:
    with built(flags) as (args, stages):
        activations = Activations(args, Precision.of(args, GPUS["h100"]))
        chunk = stages[0].chunks[0]
        whole = activations.held(chunk, NONE)
        part = activations.held(chunk, Recomputation("selective", modules=modules))
    assert whole.at_once == 0
    # What four layers let go of is made again in one layer at a time.
    assert part.per_microbatch + 4 * part.at_once == whole.per_microbatch
    concerned = {"mlp": DENSE, "moe_act": MOE, "layernorm": MOE, "moe": MOE}.get(modules[0], flags)
    assert (part.at_once > 0) == (concerned is flags)


def test_full_recomputation_keeps_the_stream() -> None:
    with built(DENSE) as (args, stages):
        activations = Activations(args, Precision.of(args, GPUS["h100"]))
        chunk = stages[0].chunks[0]
        layer = sum(one.num_bytes for one in activations.saved_by_layer(chunk.layers[0]))
        head = sum(one.num_bytes for one in activations.saved_by_head())
        stream = 128 * 2 * 64 * 2
        for count, (kept, again) in {1: (4, 1), 2: (2, 2), 4: (1, 4), 3: (2, 3)}.items():
            held = activations.held(chunk, Recomputation("full", "uniform", count))
            assert held.per_microbatch == kept * stream + head
            assert held.at_once == again * layer
        held = activations.held(chunk, Recomputation("full", "block", 3))
        assert held.per_microbatch == 3 * stream + layer + head
        assert held.at_once == layer
        assert activations.held(chunk, FULL).per_microbatch == 4 * stream + head


@pytest.mark.parametrize(("recipe", "scale"), [("delayed", 0), ("blockwise", 4 / 128)])
def test_fp8_halves_the_inputs_of_products(recipe: str, scale: float) -> None:
    """By Transformer Engine's source; a prediction."""
    fp8 = (f"--fp8-recipe={recipe}", "--fp8-format=hybrid")
    inputs = {}
    for more in ((), fp8):
        with built((*DENSE, *more)) as (args, stages):
            activations = Activations(args, Precision.of(args, GPUS["h100"]))
            saved = activations.saved_by_layer(stages[0].chunks[0].layers[0])
        inputs[more] = sum(one.num_bytes for one in saved if "input of the projection" in one.what)
    assert inputs[fp8] == pytest.approx(inputs[()] * (1 + scale) / 2)
