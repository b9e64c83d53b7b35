"""The law's own table, and where it is not to be asked."""

from argparse import Namespace

import pytest

from tst_megatron.methods.growth.when import advice, parameters_in_layers, tokens_before_growth

LLAMA_LIKE = {
    "num_layers": 32,
    "hidden_size": 2560,
    "ffn_hidden_size": 6912,
    "num_attention_heads": 20,
    "kv_channels": 128,
    "group_query_attention": False,
    "num_query_groups": None,
    "swiglu": True,
    "num_experts": None,
    "hybrid_layer_pattern": None,
    "multi_latent_attention": False,
}


@pytest.mark.parametrize(
    ("parameters", "tokens", "before"),
    [(8e9, 15e12, 6.58e9), (7e9, 2e12, 11.11e9), (13e9, 2e12, 15.84e9), (70e9, 2e12, 42.48e9)],
)
def test_the_paper_s_table(parameters, tokens, before):
    # arXiv 2405.15319, Table 4, as C = 6 N D gives it, to every printed digit.
    found = tokens_before_growth(parameters, 6 * parameters * tokens)
    assert found / 1e9 == pytest.approx(before / 1e9, abs=0.005)


def test_weights_of_layers():
    args = Namespace(**LLAMA_LIKE)
    assert parameters_in_layers(args) == 32 * (4 * 2560 * 2560 + 3 * 2560 * 6912)
    grouped = Namespace(**LLAMA_LIKE | {"group_query_attention": True, "num_query_groups": 5})
    per_layer = 2 * 2560 * 2560 + 2 * 2560 * 5 * 128 + 3 * 2560 * 6912
    assert parameters_in_layers(grouped) == 32 * per_layer


def test_what_it_says_of_a_model_that_it_was_fitted_to():
    law, late = advice(Namespace(**LLAMA_LIKE), int(42e9))
    parameters = parameters_in_layers(Namespace(**LLAMA_LIKE))
    tokens = tokens_before_growth(parameters, 6 * parameters * 42e9)
    assert f"sees {tokens:.3g} tokens before it grows, {tokens / 42e9:.0%} of the run's" in law
    assert "80%" in late
    assert "contradict each other" in late


def test_below_its_models_it_is_refused_with_what_it_would_ask():
    tiny = LLAMA_LIKE | {
        "num_layers": 4, "hidden_size": 96, "ffn_hidden_size": 288, "num_attention_heads": 3,
        "kv_channels": 32,
    }  # fmt: skip
    law, _ = advice(Namespace(**tiny), int(7.2e6))
    assert "says nothing of a model of 4.79e+05" in law
    assert "times the run's text" in law


@pytest.mark.parametrize("other", [{"num_experts": 8}, {"hybrid_layer_pattern": "M-*-"}])
def test_other_models_are_not_the_law_s(other):
    law, _ = advice(Namespace(**LLAMA_LIKE | other), int(1e9))
    assert "dense models with attention in every layer" in law
