"""A model of transformers' with n-grams against Megatron's tables, and against itself with a cache:
alone, and with routed blocks, whose cache lies beside.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cached_generation import check_cache
from own_classes import own_classes
from torch import Tensor

from tst_megatron.methods.depths.method import CODE as ROUTED
from tst_megatron.methods.ngrams.exported import CODE as NGRAMS

VOCABULARY, H, LAYERS, ROWS, ORDERS, END = 16, 32, 2, 7, [2, 3, 5], 0


@pytest.fixture
def model_of(tmp_path, generator) -> Callable[..., Any]:
    """A model of a family with tables of random numbers, in float64."""

    def model_of(family: str, *codes: Any, attention: str = "sdpa") -> Any:
        model, config = own_classes(tmp_path, family, codes)
        made = config(
            vocab_size=VOCABULARY,
            hidden_size=H,
            intermediate_size=48,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=64,
            initializer_range=0.3,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
            ngram_rows=ROWS,
            ngram_orders=ORDERS,
            ngram_end=END,
            **({"num_local_experts": 4, "num_experts_per_tok": 2} if family == "mixtral" else {}),
            **({"routed_layers": [1], "routed_sampling": "auxiliary"} if ROUTED in codes else {}),
            **({"routed_thresholds": [None]} if ROUTED in codes else {}),
        )
        made._attn_implementation = attention
        torch.manual_seed(3)
        found = model(made).double().eval()
        # A table that nothing has trained says nothing.
        assert torch.count_nonzero(found.model.ngram_embeddings.weight) == 0
        for name, parameter in found.named_parameters():
            if "ngram" in name or "depth_router" in name:
                parameter.data = torch.randn(
                    parameter.shape, generator=generator, dtype=torch.float64
                )
        return found

    return model_of


def text(generator, *sizes: int) -> Tensor:
    """Ids of few kinds, so that n-grams come again and documents end."""
    return torch.randint(0, 4, sizes, generator=generator)


def test_vectors_are_megatrons(model_of, model_parallel, generator) -> None:
    from megatron.core import ModelParallelConfig, parallel_state
    from megatron.core.tensor_parallel import VocabParallelEmbedding

    from tst_megatron.methods.ngrams.embedding import NgramEmbedding

    model = model_of("llama", NGRAMS)
    config = ModelParallelConfig(use_cpu_initialization=True)
    words = VocabParallelEmbedding(
        VOCABULARY, H, init_method=torch.nn.init.normal_, config=config
    ).double()
    group = parallel_state.get_context_parallel_group()
    theirs = NgramEmbedding(ORDERS, ROWS, END, None, words, group).double()
    with torch.no_grad():
        theirs.weight.copy_(model.model.ngram_embeddings.weight)
        words.weight.copy_(model.model.embed_tokens.weight)
        ids = text(generator, 3, 20)
        found: list[Tensor] = []
        model.model.layers[0].register_forward_pre_hook(lambda _, given: found.append(given[0]))
        model(ids)
        assert torch.equal(found[0], words(ids) + theirs(ids))


@pytest.mark.parametrize(
    ("family", "codes"),
    [("llama", (NGRAMS,)), ("mixtral", (NGRAMS,)), ("qwen3", (ROUTED, NGRAMS))],
    ids=lambda one: one if isinstance(one, str) else "+".join(code.prefix for code in one),
)
def test_what_is_kept_is_what_was_seen(family: str, codes: Any, model_of, generator) -> None:
    model = model_of(family, *codes)
    rows = [text(generator, n) for n in (3, 9, 6)]
    # Filled up with an id that n-grams would have, were it text.
    ours = check_cache(model, rows, filler=2)
    with torch.no_grad():
        model.model.ngram_embeddings.weight.zero_()
    assert not torch.equal(check_cache(model, rows, filler=2), ours)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_text_in_parts_is_the_text(attention: str, model_of, generator) -> None:
    model = model_of("llama", NGRAMS, attention=attention)
    ids = text(generator, 2, 12)
    with torch.no_grad():
        whole = model(ids).logits
        # Before transformers 5.24 it has another name.
        name = "cache" if hasattr(model(ids[:, :1]), "cache") else "past_key_values"
        kept, parts = None, []
        for part in ids.split((5, 1, 4, 2), dim=1):
            out = model(part, **{name: kept}, use_cache=True)
            kept = getattr(out, name)
            parts.append(out.logits)
    # To first order each tensor of a layer is rounded once in either, some dozen a layer and three
    # besides (`test_export` counts them), where it is rounded to float32: norms, and eager softmax.
    bound = 2 * (17 * LAYERS + 3) * 2.0**-24
    assert (torch.cat(parts, dim=1) - whole).norm() < bound * whole.norm()


def test_vectors_have_no_ngrams(model_of) -> None:
    model = model_of("llama", NGRAMS)
    with pytest.raises(ValueError, match="give input_ids and no inputs_embeds"):
        model(inputs_embeds=torch.zeros(1, 2, H, dtype=torch.float64))
