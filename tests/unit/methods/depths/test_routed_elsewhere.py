"""A routed model of transformers' against Megatron's, and against itself with a cache.

Megatron's takes the tokens that are let in out of the sequence; the other computes all of them
under a mask. Both have the same numbers, put in place by the table that an export goes by.
"""

from argparse import Namespace
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cached_generation import check_cache
from own_classes import own_classes
from torch import Tensor

from tst_megatron.methods.depths.method import CODE, METHOD

VOCABULARY, L, B, H, LAYERS, GROUPS, FFN = 64, 14, 3, 32, 4, 2, 48
BLOCKS = {1: 0.25, 3: 0.5}
"""Numbered from 1, with their capacities; the first has no keys of an ordinary block before it."""
THRESHOLD = 0.3
SAMPLINGS = ("predictor", "auxiliary", "threshold")


@pytest.fixture
def megatrons(model_parallel):
    """A routed model of Megatron's in float64, which goes by its rule."""
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
    from megatron.core.transformer import TransformerConfig

    from tst_megatron.methods.depths.block import Now
    from tst_megatron.methods.depths.model import route_all, routed_blocks
    from tst_megatron.methods.depths.settings import Routing

    def build(sampling: str) -> Any:
        model_parallel_cuda_manual_seed(5, force_reset_rng=True)
        config = TransformerConfig(
            num_layers=LAYERS,
            hidden_size=H,
            ffn_hidden_size=FFN,
            num_attention_heads=4,
            num_query_groups=GROUPS,
            normalization="RMSNorm",
            gated_linear_unit=True,
            activation_func=torch.nn.functional.silu,
            add_bias_linear=False,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            init_method_std=0.3,
            layernorm_epsilon=1e-6,
        )
        model = GPTModel(
            config=config,
            transformer_layer_spec=get_gpt_layer_local_spec(normalization="RMSNorm"),
            vocab_size=VOCABULARY,
            max_sequence_length=L,
            position_embedding_type="rope",
            share_embeddings_and_output_weights=False,
        ).double()
        route_all([model], Routing(BLOCKS, sampling, "router", 0.01, 0.9, 1), Now(), seed=7)
        for block in routed_blocks([model]):
            block.depth_router.double()
            block.depth_router.average_in(torch.tensor(THRESHOLD))
        return model.eval()

    return build


def settings(sampling: str) -> dict[str, Any]:
    return {
        "routed_layers": [block - 1 for block in BLOCKS],
        "routed_sampling": sampling,
        "routed_thresholds": [THRESHOLD if sampling == "threshold" else None] * len(BLOCKS),
    }


@pytest.fixture
def model_of(tmp_path) -> Callable[..., Any]:
    """A model of a family with routed blocks, of transformers' random numbers."""

    def model_of(family: str, sampling: str, attention: str = "sdpa") -> Any:
        model, config = own_classes(tmp_path, family, [CODE])
        return model(config_of(config, sampling, attention))

    return model_of


def config_of(kind: Any, sampling: str, attention: str) -> Any:
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    found = kind(
        vocab_size=VOCABULARY,
        hidden_size=H,
        intermediate_size=FFN,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=GROUPS,
        head_dim=H // 4,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        rms_norm_eps=1e-6,
        initializer_range=0.3,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        **(experts if kind.model_type == "routed_mixtral" else {}),
        **settings(sampling),
    )
    found._attn_implementation = attention
    return found


def with_numbers_of(model: Any, megatron: Any) -> Any:
    """Transformers' model with Megatron's numbers."""
    from tst_megatron.checkpoints.keys import other_norm
    from tst_megatron.huggingface.shape import Layer, Shape
    from tst_megatron.huggingface.weights import weights_of

    shape = Shape(
        *((Layer(),) * LAYERS, H, 4, GROUPS, H // 4, FFN, None, VOCABULARY),
        *(False, False, False, 1e-6, 1e4, False, L, 0.3),
    )
    model = model.double().eval()
    theirs = megatron.state_dict()
    found = {}
    for weight in weights_of(shape):
        before = "" if weight.layer is None else f"decoder.layers.{weight.layer}."
        key = f"{before}{weight.own}"
        key = key if key in theirs else f"{before}{other_norm(weight.own)}"
        found[weight.name] = torch.cat([theirs[key][begin:end] for begin, end in weight.rows])
    for block in BLOCKS:
        for name, _ in model.model.layers[block - 1].depth_router.named_parameters():
            own = f"layers.{block - 1}.depth_router.{name}"
            found[f"model.{own}"] = theirs[f"decoder.{own}"]
    model.load_state_dict(found)
    return model


def masked(passes: list[Tensor]) -> bool:
    """Whether every block lets some tokens in and some not."""
    return all(0 < one.sum() < one.numel() for one in passes)


def let_in(model: Any) -> list[Tensor]:
    """What blocks let in, as they do."""
    found: list[Tensor] = []
    for layer in model.model.layers:
        if hasattr(layer, "depth_router"):
            layer.depth_router.register_forward_hook(lambda _, __, out: found.append(out[1]))
    return found


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_it_is_megatrons(megatrons, model_of, generator, sampling: str) -> None:
    theirs = megatrons(sampling)
    ours = with_numbers_of(model_of("llama", sampling), theirs)
    passes = let_in(ours)
    ids = torch.randint(0, VOCABULARY, (B, L), generator=generator)
    with torch.no_grad():
        found = ours(ids).logits
        expected = theirs(ids, torch.arange(L).expand(B, L), None)
    assert masked(passes)
    # transformers rounds what a norm gives to float32, twice, and RoPE's table; the norm before
    # the next block keeps it from growing: two norms a layer, two tables, and the last norm.
    rounded = 2 * (2 * LAYERS + 1) + 2 * LAYERS
    bound = rounded * 2.0**-24
    assert (found - expected).norm() < bound * expected.norm()


def test_halves_of_layers_and_chance_stay() -> None:
    told = {"blocks": [[1, 0.5], [3, 0.5]], "sampling": "predictor", "choice": "router"}
    plain, hybrid = Namespace(), Namespace(hybrid_layer_pattern="*-*-")
    assert METHOD.why_not_exported(told, plain) is None
    assert "2 routed layers of a hybrid model" in str(METHOD.why_not_exported(told, hybrid))
    assert "--mod-choice random" in str(METHOD.why_not_exported(told | {"choice": "random"}, plain))


def drawn(model_of: Callable[..., Any], *of: str) -> Any:
    """A model with numbers of its own, of whose tokens some are let in."""
    torch.manual_seed(3)
    found = model_of(*of)
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            if "depth_router" in name:
                parameter.normal_(std=0.3)
    return found.eval()


@pytest.mark.parametrize(
    ("family", "sampling"),
    [("llama", "predictor"), ("mixtral", "threshold"), ("qwen3", "auxiliary")],
)
def test_what_is_kept_is_what_was_seen(family: str, sampling: str, model_of, generator) -> None:
    model = drawn(model_of, family, sampling)
    passes = let_in(model)
    rows = [torch.randint(0, VOCABULARY, (n,), generator=generator) for n in (3, 9, 6)]
    check_cache(model, rows, filler=0)
    assert masked([torch.cat([one.flatten() for one in passes])])


def test_attention_that_has_a_mask_is_the_same_and_another_is_refused(model_of, generator) -> None:
    ids = torch.randint(0, VOCABULARY, (B, L), generator=generator)
    ours, eager = (drawn(model_of, "llama", "predictor", one) for one in ("sdpa", "eager"))
    with torch.no_grad():
        one, other = ours(ids).logits, eager(ids).logits
    # To first order each tensor of a layer is rounded once in either, some dozen a layer
    # (`test_export` counts them), half a unit of 24 bits each.
    assert (one - other).norm() < 2 * (17 * LAYERS + 3) * 2.0**-24 * one.norm()
    for attention in ("flash_attention_2", "flex_attention"):
        with pytest.raises(ValueError, match="does not support"):
            drawn(model_of, "llama", "predictor", attention)
