"""Layer specifications for a CPU: Megatron's local modules with torch's fused attention.

The one idea: Megatron's local attention writes out the scores ``[b·n, L, L]``; torch's
``scaled_dot_product_attention`` never does, and is the faster of the two on a CPU.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import torch.nn.functional as F
from megatron.core import tensor_parallel
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.models.gpt.moe_module_specs import get_moe_module_spec
from megatron.core.models.hybrid.hybrid_block import HybridStack, HybridStackSubmodules
from megatron.core.ssm.mlp_layer import MLPLayer
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.multi_token_prediction import (
    MultiTokenPredictionBlock,
    MultiTokenPredictionBlockSubmodules,
    MultiTokenPredictionLayer,
    MultiTokenPredictionLayerSubmodules,
)
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.torch_norm import WrappedTorchNorm
from megatron.core.transformer.transformer_layer import (
    MoETransformerLayer,
    TransformerLayer,
    TransformerLayerSubmodules,
)
from torch import Tensor


class ScaledDotProductAttention(DotProductAttention):
    """``DotProductAttention`` through torch's fused kernel, where that computes the same thing."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: Any = None,
    ) -> Tensor:
        """Attention over ``[L, b, n/tp, d]`` queries: ``[L, b, n·d/tp]``.

        A mask from the data loader, a window, a softmax offset, a bias or packed documents go the
        parent's way.
        """
        mask_type = self.attn_mask_type if attn_mask_type is None else attn_mask_type
        plain = (
            mask_type == AttnMaskType.causal
            and attention_mask is None
            and attention_bias is None
            and packed_seq_params is None
            and self.softmax_offset is None
            and self.scale_mask_softmax.window_size is None
            and not self.config.apply_query_key_layer_scaling
        )
        if not plain:
            return super().forward(
                query, key, value, attention_mask, attn_mask_type, attention_bias, packed_seq_params
            )
        query, key, value = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        attend = partial(
            F.scaled_dot_product_attention,
            query,
            key,
            value,
            is_causal=True,
            scale=self.softmax_scale,
            enable_gqa=key.shape[1] != query.shape[1],
        )
        if self.training and self.attention_dropout.p > 0.0:
            with tensor_parallel.get_cuda_rng_tracker().fork():
                context = attend(dropout_p=self.attention_dropout.p)
        else:
            context = attend()
        return context.permute(2, 0, 1, 3).flatten(start_dim=2)


def with_fused_attention(spec: Any) -> Any:
    """A GPT layer or block specification with every plain attention fused, in a copy.

    So are the heads of multi-token prediction; a stage without heads has None.
    """
    if spec is None:
        return None
    if hasattr(spec, "layer_specs"):
        return replace(
            spec, layer_specs=[with_fused_attention(layer) for layer in spec.layer_specs]
        )
    if hasattr(spec.submodules, "mtp_model_layer"):
        with_fused_attention(spec.submodules.mtp_model_layer)
        return spec
    attention: Any = getattr(spec.submodules.self_attention, "submodules", None)
    if getattr(attention, "core_attention", None) is DotProductAttention:
        attention.core_attention = ScaledDotProductAttention
    return spec


_MLP = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)

hybrid_stack_spec = ModuleSpec(
    module=HybridStack,
    submodules=HybridStackSubmodules(
        attention_layer=ModuleSpec(
            module=TransformerLayer,
            submodules=TransformerLayerSubmodules(
                input_layernorm=WrappedTorchNorm,
                self_attention=ModuleSpec(
                    module=SelfAttention,
                    params={"attn_mask_type": AttnMaskType.causal},
                    submodules=SelfAttentionSubmodules(
                        linear_qkv=ColumnParallelLinear,
                        core_attention=ScaledDotProductAttention,
                        linear_proj=RowParallelLinear,
                    ),
                ),
                self_attn_bda=get_bias_dropout_add,
            ),
        ),
        mlp_layer=ModuleSpec(
            module=MLPLayer,
            submodules=TransformerLayerSubmodules(
                pre_mlp_layernorm=WrappedTorchNorm,
                mlp=partial(MLP.as_mlp_submodule, submodules=_MLP),
                mlp_bda=get_bias_dropout_add,
            ),
        ),
        moe_layer=ModuleSpec(
            module=MoETransformerLayer,
            submodules=TransformerLayerSubmodules(
                pre_mlp_layernorm=WrappedTorchNorm,
                mlp=get_moe_module_spec(use_te=False, num_experts=1, moe_grouped_gemm=False),
                mlp_bda=get_bias_dropout_add,
            ),
        ),
        mtp_block_spec=ModuleSpec(
            module=MultiTokenPredictionBlock,
            submodules=MultiTokenPredictionBlockSubmodules(
                layer_specs=[
                    ModuleSpec(
                        module=MultiTokenPredictionLayer,
                        submodules=MultiTokenPredictionLayerSubmodules(
                            enorm=WrappedTorchNorm,
                            hnorm=WrappedTorchNorm,
                            layer_norm=WrappedTorchNorm,
                            eh_proj=ColumnParallelLinear,
                        ),
                    )
                ]
            ),
        ),
    ),
)
"""``HybridStack`` of attention (``*``), MLP (``-``) and mixture-of-experts (``E``) layers, and the
heads of multi-token prediction (``/`` and their layers).

State-space layers need kernels that exist for GPUs only.
"""
