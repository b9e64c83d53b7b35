"""Keys are taken apart as Megatron puts them together."""

import pytest
from megatron.core.dist_checkpointing.mapping import ShardedObject
from megatron.core.optimizer import DistributedOptimizer

from tst_megatron.checkpoints import description
from tst_megatron.checkpoints.description import norms_of
from tst_megatron.checkpoints.keys import is_of_model, is_of_optimizer, key_of, shard_of

FC1 = "decoder.layers.mlp.linear_fc1.weight"


@pytest.mark.parametrize(
    ("text", "prefix", "state", "layer", "name"),
    [
        (FC1, "", None, None, "mlp.linear_fc1.weight"),
        ("decoder.layers.12.mlp.router.weight", "", None, 12, "mlp.router.weight"),
        (
            f"optimizer.state.exp_avg.{FC1}",
            "optimizer.state.exp_avg.",
            "exp_avg",
            None,
            "mlp.linear_fc1.weight",
        ),
        (
            "chained_1.optimizer.state.param.decoder.layers.3.mixer.out_proj.weight",
            "chained_1.optimizer.state.param.",
            "param",
            3,
            "mixer.out_proj.weight",
        ),
        ("embedding.word_embeddings.weight", "", None, None, None),
        ("decoder.final_layernorm.weight", "", None, None, None),
        ("mtp.layers.0.transformer_layer.mlp.linear_fc1.weight", "", None, None, None),
    ],
)
def test_state_layer_and_name(text, prefix, state, layer, name) -> None:
    key = key_of(text)
    assert (key.prefix, key.state, key.layer, key.name) == (prefix, state, layer, name)
    assert key.prefix + key.own == text
    assert key.has_layer_axis == (name is not None and layer is None)
    if layer is not None:
        assert key.of_layer(7) == text.replace(f"layers.{layer}.", "layers.7.")


def test_masters_are_no_moments_and_buffers_no_parameters() -> None:
    moments = {
        state: key_of(f"optimizer.state.{state}.{FC1}").is_moment
        for state in ("param", "fp32_param", "exp_avg", "exp_avg_sq", "momentum_buffer")
    }
    assert [state for state, is_moment in moments.items() if not is_moment] == [
        "param",
        "fp32_param",
    ]
    assert key_of(FC1).is_parameter
    assert not key_of("decoder.layers.mlp.router.expert_bias").is_parameter
    assert not key_of(f"optimizer.state.exp_avg.{FC1}").is_parameter


def test_experts_are_an_axis_or_have_a_number() -> None:
    axis = key_of("decoder.layers.2.mlp.experts.experts.linear_fc1.weight")
    assert (axis.has_expert_axis, axis.expert) == (True, None)
    numbered = key_of("decoder.layers.2.mlp.experts.experts.11.linear_fc1.weight")
    assert (numbered.has_expert_axis, numbered.expert) == (False, 11)
    shared = key_of("decoder.layers.mlp.shared_experts.linear_fc1.weight")
    assert (shared.has_expert_axis, shared.expert) == (False, None)


def test_shards_of_objects_are_megatrons() -> None:
    key = "decoder.layers.mlp.linear_fc1._extra_state"
    text = ShardedObject(key, None, (4, 8), (2, 5)).unique_key
    shard = shard_of(text)
    assert (shard.key, shard.offset, shard.shape) == (key, (2, 5), (4, 8))
    assert str(shard) == text
    assert shard_of(FC1) is None


def test_whose_a_key_is() -> None:
    of_optimizer = "optimizer.distributed.dp_group_idx_0.optimizer/shard_0_1"
    assert is_of_optimizer(of_optimizer)
    assert not is_of_model(of_optimizer)
    assert not is_of_model("rng_state/shard_0.0_1.1")
    assert is_of_model("output_layer.weight")


def test_what_any_layout_can_read_is_what_megatron_says() -> None:
    formats = DistributedOptimizer.checkpoint_fully_reshardable_formats
    # fsdp_dtensor is of another --ckpt-format.
    assert formats - {"fsdp_dtensor"} == set(description._RESHARDABLE)


@pytest.mark.parametrize(
    ("names", "is_hybrid", "found"),
    [
        (["self_attention.linear_qkv.layer_norm_weight"], False, "either"),
        (["mlp.router.weight", "mlp.linear_fc1.layer_norm_weight"], False, "local"),
        (["mlp.router.weight", "pre_mlp_layernorm.weight"], False, "transformer_engine"),
        (["0.input_layernorm.weight", "1.pre_mlp_layernorm.weight"], True, "local"),
        (["0.mixer.in_proj.layer_norm_weight"], True, "transformer_engine"),
        (["0.mlp.router.weight", "0.pre_mlp_layernorm.weight"], True, "either"),
    ],
)
def test_whose_norms(names, is_hybrid: bool, found: str) -> None:
    assert norms_of([f"decoder.layers.{name}" for name in names], is_hybrid) == found
