"""What a model is told to be, on either side; and that nothing that changes it is passed over."""

from argparse import Namespace
from dataclasses import fields, replace

import pytest
from megatron.core.transformer import TransformerConfig
from transformers import AutoConfig

from tst_megatron.errors import UserError
from tst_megatron.huggingface.families import FAMILIES, config_of, family_of, shape_of_config
from tst_megatron.huggingface.megatron_logits import _COMPUTATION, _LAYOUT
from tst_megatron.huggingface.shape import _ONLY, Experts, Layer, Shape, flags_of, shape_of
from tst_megatron.huggingface.weights import weights_of

LLAMA = Shape(
    layers=(Layer(),) * 4,
    hidden_size=48,
    heads=6,
    groups=2,
    head_size=16,
    ffn_size=96,
    experts=None,
    vocab_size=320,
    ties_embeddings=False,
    has_qk_norm=False,
    has_qkv_bias=False,
    norm_epsilon=1e-5,
    rotary_base=5e5,
    has_rope_scaling=False,
    max_positions=64,
    init_std=0.02,
)
EXPERTS = Experts(8, 2, 24, True, 1e-3)
SOME = (Layer(), Layer(has_experts=True)) * 2
SHAPES = {
    "llama": LLAMA,
    "scaled": replace(LLAMA, has_rope_scaling=True, ties_embeddings=True),
    "smollm3": replace(LLAMA, layers=(Layer(), Layer(), Layer(False), Layer())),
    "qwen2": replace(LLAMA, has_qkv_bias=True),
    "qwen3": replace(LLAMA, has_qk_norm=True, norm_epsilon=1e-6),
    "qwen3_moe": replace(LLAMA, layers=SOME, has_qk_norm=True, experts=EXPERTS),
    "mixtral": replace(
        LLAMA, layers=(Layer(has_experts=True),) * 4, experts=replace(EXPERTS, ffn_size=96)
    ),
}
# Arguments of Megatron's that a shape is read from; ``validate_args`` gives them these names.
READ = {
    *("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_query_groups"),
    *("kv_channels", "add_qkv_bias", "qk_layernorm", "layernorm_epsilon", "no_rope_freq"),
    *("init_method_std", "num_moe_experts", "moe_router_topk", "moe_ffn_hidden_size"),
    *("moe_layer_freq", "moe_router_pre_softmax", "moe_aux_loss_coeff", "gated_linear_unit"),
    *("activation_func", "is_hybrid_model"),
}
# Of the rest of its configuration, what beginnings of names say: how it is trained, or computed, or
# that it belongs to layers that `kinds_of` tells apart and that have no place in a pattern.
OTHERWISE = (
    *("activation_offload", "activation_func_fp8", "attention_dropout", "autocast", "barrier"),
    *("batch_", "bias_", "calculate_per", "clone_", "config_logger", "context_parallel", "cpu_"),
    *("cuda_graph", "deallocate", "defer_", "delay_", "delta_", "deterministic", "disable_"),
    *("distribute_", "dsa_", "embedding_init", "enable_", "expert_", "experimental_attention_vari"),
    *("finalize", "fine_grained", "flash_", "fp16", "fp4", "fp8", "fp32_residual", "fused_"),
    *("grad_", "hetereogenous", "heterogeneous", "hidden_dropout", "high_priority", "hybrid_"),
    *("inference_", "init_method", "kitchen", "linear_", "log_", "mamba_", "memory_efficient"),
    *("microbatch", "min_offloaded", "mlp_chunks", "moe_deepep", "moe_enable", "moe_flex"),
    *("moe_hybridep", "moe_input_jitter", "moe_layer_recompute", "moe_ncclep", "moe_pad_"),
    *("moe_paged", "moe_per_layer", "moe_permute", "moe_router_bias_update", "moe_router_dtype"),
    *("moe_router_padding", "moe_router_quantile", "moe_token_"),
    *("moe_shared_", "moe_z_loss", "moe_expert_rank", "moe_single_grouped_bias", "mrope", "mtp_"),
    *("mup_", "nccl_", "no_sync", "num_layers_at", "num_microbatches", "offload_", "output_layer"),
    *("overlap_", "param_sync", "perform_", "persist_", "pipeline_", "qk_clip", "quant_recipe"),
    *(
        "recompute_",
        "sequence_parallel",
        "symmetric_",
        "test_mode",
        "timers",
        "tp_",
        "transformer_",
    ),
    *("use_cpu", "use_fused", "use_grouped", "use_inference", "use_kitchen", "use_mamba"),
    *("use_ring", "use_te_", "use_transformer", "variable_", "virtual_", "wgrad", "window_attn"),
    *("attention_softmax_in_fp32", "apply_query_key", "apply_rope_fusion", "masked_softmax"),
    *("moe_grouped_gemm", "moe_extended", "num_layers_in", "account_for", "attention_backend"),
    *("bf16", "params_dtype", "tensor_", "hierarchical", "cp_comm", "async_", "gradient_", "ep_"),
    *(
        "min_",
        "max_",
        "external_",
        "moe_router_fusion",
        "moe_router_load",
        "moe_shared_expert_over",
    ),
    *("_cpu", "cross_entropy_fusion", "gtp_weight", "moe_grad_scale"),
    *("fallback", "expert_tensor", "softmax_type", "use_arbitrary", "moe_hybrid"),
)


def test_every_setting_of_megatrons_models_is_read_or_refused_or_changes_nothing() -> None:
    told = {*READ, *_ONLY, *_LAYOUT, *_COMPUTATION}
    new = [
        field.name
        for field in fields(TransformerConfig)
        if field.name not in told and not field.name.startswith(OTHERWISE)
    ]
    assert not new, "a setting that an export does not know: read it, refuse it, or say why not"


@pytest.mark.parametrize("name", SHAPES)
def test_a_configuration_is_read_as_it_was_written(name: str, tmp_path) -> None:
    shape = SHAPES[name]
    if shape.experts is not None and name == "mixtral":
        shape = replace(shape, ffn_size=shape.experts.ffn_size)
    found = config_of(shape, "bfloat16", {"eos_token_id": 2})
    again, family = shape_of_config(found, "config.json")
    assert again == shape
    assert family == family_of(shape)
    # transformers takes every field as its own.
    own = AutoConfig.for_model(**found)
    assert own.architectures == [family.architecture]
    for field, value in found.items():
        if field not in ("rope_scaling", "rope_theta", "torch_dtype", "dtype", "rope_parameters"):
            assert getattr(own, field) == value, field
    assert own.rope_parameters == found["rope_parameters"]


@pytest.mark.parametrize("name", SHAPES)
def test_megatrons_flags_say_the_same_model(name: str) -> None:
    from counted_corpora import parse

    shape = SHAPES[name]
    words = [
        f"--{flag}" if value is True else f"--{flag}={value}"
        for flag, value in flags_of(shape).items()
    ]
    args = parse(*words)
    args.add_bias_linear = False
    assert shape_of(args, shape.vocab_size, shape.ties_embeddings) == shape


@pytest.mark.parametrize("name", SHAPES)
def test_weights_are_those_of_transformers_model(name: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    shape = SHAPES[name]
    if name in ("qwen3_moe", "mixtral"):
        pytest.skip("experts are fused in memory; end to end they are loaded")
    config = AutoConfig.for_model(**config_of(shape, "float32", {}))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    theirs = {key: tuple(one.shape) for key, one in model.state_dict().items()}
    if shape.ties_embeddings:
        del theirs["lm_head.weight"]
    assert {weight.name: weight.shape for weight in weights_of(shape)} == theirs


def test_every_row_of_a_tensor_is_one_weights() -> None:
    for shape in SHAPES.values():
        rows: dict[object, list[int]] = {}
        for weight in weights_of(shape):
            place = (weight.layer, weight.own, weight.expert)
            assert sum(end - begin for begin, end in weight.rows) == weight.shape[0]
            for begin, end in weight.rows:
                rows.setdefault(place, []).extend(range(begin, end))
        assert all(sorted(found) == list(range(len(found))) for found in rows.values())


BASE = {
    "num_layers": 4,
    "hidden_size": 48,
    "num_attention_heads": 6,
    "ffn_hidden_size": 96,
    "normalization": "RMSNorm",
    "swiglu": True,
    "add_bias_linear": False,
    "position_embedding_type": "rope",
    "max_position_embeddings": 64,
}
ABSENT = object()
MOE = {"num_experts": 4, "moe_router_topk": 2, "moe_ffn_hidden_size": 24}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"normalization": "LayerNorm"}, "--normalization LayerNorm"),
        ({"swiglu": False}, "--swiglu False"),
        ({"add_bias_linear": True}, "--add-bias-linear True"),
        ({"position_embedding_type": "learned_absolute"}, "positions other than RoPE's"),
        ({"rotary_percent": 0.5}, "--rotary-percent 0.5"),
        ({"apply_layernorm_1p": True}, "--apply-layernorm-1p"),
        ({"multi_latent_attention": True}, "--multi-latent-attention"),
        ({"window_size": (128, 0)}, "attention in a window"),
        ({"qk_l2_norm": True}, "--qk-l2-norm"),
        ({"hybrid_layer_pattern": "M*-"}, "the hybrid pattern M*- is not attention"),
        ({"hybrid_layer_pattern": "*--"}, "the hybrid pattern *-- is not"),
        ({"add_qkv_bias": True, "qk_layernorm": True}, "--add-qkv-bias"),
        ({"no_rope_freq": 2, "qk_layernorm": True}, "--no-rope-freq"),
        ({**MOE, "moe_shared_expert_intermediate_size": 24}, "a shared expert"),
        ({**MOE, "moe_router_score_function": "sigmoid"}, "a router without softmax"),
        ({**MOE, "moe_router_enable_expert_bias": True}, "--moe-router-enable-expert-bias"),
        ({**MOE, "moe_layer_freq": [0, 1, 1, 1]}, "experts in some layers"),
        ({**MOE, "moe_router_pre_softmax": True}, "--moe-router-pre-softmax"),
        ({**MOE, "moe_expert_capacity_factor": 1.0}, "experts that drop tokens"),
        ({**MOE, "moe_router_topk_limited_devices": 2}, "a router that chooses groups first"),
        (
            {**MOE, "moe_router_load_balancing_type": ["aux_loss", "sinkhorn"]},
            "--moe-router-load-balancing-type ['aux_loss', 'sinkhorn']",
        ),
        ({**MOE, "moe_router_load_balancing_type": "quantile_balancing"}, "quantile_balancing"),
        ({"spec": ["my_package", "my_layers"]}, "--spec ['my_package', 'my_layers']"),
        ({"yaml_cfg": "model.yaml"}, "--yaml-cfg model.yaml"),
        # Megatron's defaults, where a checkpoint does not say.
        ({"normalization": ABSENT}, "--normalization LayerNorm"),
        ({"swiglu": ABSENT}, "--swiglu False"),
        ({"add_bias_linear": ABSENT}, "--add-bias-linear True"),
        ({"position_embedding_type": ABSENT}, "learned_absolute"),
    ],
)
def test_what_no_family_has_is_refused_by_its_name(changes, says) -> None:
    told = {name: value for name, value in (BASE | changes).items() if value is not ABSENT}
    args = Namespace(**told)
    with pytest.raises(UserError) as refused:
        family_of(shape_of(args, 320, False))
    assert says in str(refused.value)
    assert "it stays in Megatron's format" in str(refused.value)


def test_several_losses_that_balance_experts_are_losses_still() -> None:
    balancing = {"moe_router_load_balancing_type": ["seq_aux_loss", "global_aux_loss"]}
    args = Namespace(**BASE | MOE | balancing, moe_aux_loss_coeff=[0.01, 0.001])
    assert family_of(shape_of(args, 320, False)) is FAMILIES["mixtral"]


def test_a_scaling_factor_of_rope_that_another_megatron_may_have_heeded() -> None:
    args = Namespace(**BASE, use_rope_scaling=True, rope_scaling_factor=32.0)
    with pytest.raises(UserError, match=r"--rope-scaling-factor 32, which some versions"):
        shape_of(args, 320, False)
    args.rope_scaling_factor = 8.0
    assert shape_of(args, 320, False).has_rope_scaling


def test_what_says_nothing_of_a_model_without_experts_is_not_asked() -> None:
    args = Namespace(**BASE, moe_router_score_function="sigmoid")
    assert family_of(shape_of(args, 320, False)) is FAMILIES["llama"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2', and what can be read is llama"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"attention_bias": True}, "attention_bias True"),
        ({"mlp_bias": True}, "mlp_bias True"),
        ({"sliding_window": 128}, "sliding_window 128"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_size": None}, "hidden_size None where a whole number"),
        ({"hidden_size": "48"}, "hidden_size '48'"),
        ({"rms_norm_eps": "tiny"}, "rms_norm_eps 'tiny'"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings 1"),
        ({"num_key_value_heads": 4}, "6 heads in 4 groups"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "RoPE scaled as"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "rope_parameters"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
    ],
)
def test_a_configuration_that_megatron_has_no_model_for_is_refused(changes, says) -> None:
    found = config_of(LLAMA, "float32", {}) | changes
    with pytest.raises(UserError, match=r"config\.json has") as refused:
        shape_of_config(found, "config.json")
    assert says in str(refused.value)


def test_experts_by_the_name_that_transformers_5_writes() -> None:
    shape = SHAPES["qwen3_moe"]
    own = AutoConfig.for_model(**config_of(shape, "float32", {})).to_diff_dict()
    assert "num_experts" not in own
    assert shape_of_config(own, "config.json")[0] == shape


def test_a_number_of_rope_that_megatrons_flag_does_not_take() -> None:
    with pytest.raises(UserError, match=r"rope_theta 10000\.5"):
        flags_of(replace(LLAMA, rotary_base=10000.5))
