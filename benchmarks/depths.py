"""A routed block against the plain block on as many tokens as it chooses.

What it takes beside is its router's: a score of every token, the choice, chosen rows out of the
sequence and back into it. A predictor is a small MLP on every token beside that, and has a row of
its own.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import Bench, Prepare, Row, Work, time_row

CAPACITY = 0.125
# A predictor of h / 4 units is a ninth of the products of a block of 12 h² on an eighth of the
# tokens: two products with every token, neither of which has a gradient of its input.
_TARGETS = {"auxiliary": 1.05, "predictor": 1.17}


def rows(bench: Bench) -> Iterator[Row]:
    """Time of forward and backward, by the router alone and with a predictor."""
    length, hidden, ffn = (64, 64, 128) if bench.quick else (2048, 1024, 2816)
    kept = int(CAPACITY * length)
    for sampling, at_most in _TARGETS.items():
        what = (
            f"routed block forward + backward by {sampling}, {kept} of {length} tokens, "
            f"h = {hidden}"
        )
        bench.say(what)
        routed, plain, table = _blocks(sampling, length, hidden, ffn)
        ours = _forward_and_backward(routed, length, table)
        theirs = _forward_and_backward(plain, kept, table[:kept])
        against, turns = f"Megatron's block on {kept} tokens", 2 if bench.quick else 30
        yield time_row(what, against, ours, theirs, turns, at_most)


def _blocks(sampling: str, length: int, hidden: int, ffn: int) -> tuple[Any, Any, Tensor]:
    """A routed block, a plain one of the same weights, and the table of positions of both."""
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
    from megatron.core.transformer import TransformerConfig

    from tst_megatron.methods.depths.block import Now
    from tst_megatron.methods.depths.model import route_all
    from tst_megatron.methods.depths.settings import Routing

    model_parallel_cuda_manual_seed(5, force_reset_rng=True)
    config = TransformerConfig(
        num_layers=2,
        hidden_size=hidden,
        ffn_hidden_size=ffn,
        num_attention_heads=hidden // 64,
        normalization="RMSNorm",
        gated_linear_unit=True,
        activation_func=F.silu,
        add_bias_linear=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
    )
    model = GPTModel(
        config=config,
        transformer_layer_spec=get_gpt_layer_local_spec(normalization="RMSNorm"),
        vocab_size=64,
        max_sequence_length=length,
        position_embedding_type="rope",
    )
    plain, routed = model.decoder.layers
    route_all([model], Routing({2: CAPACITY}, sampling, "router", 0.01, 0.99, 1), Now(), seed=7)
    routed.load_state_dict(plain.state_dict(), strict=False)
    return routed, plain, model.rotary_pos_emb(length)


def _forward_and_backward(block: Any, length: int, table: Tensor) -> Prepare:
    """Of a sequence drawn anew for every turn: gradients of input and weights."""
    weights, hidden = list(block.parameters()), block.config.hidden_size

    def prepare() -> Work:
        inputs = torch.randn(length, 1, hidden).requires_grad_()
        grad = torch.randn(length, 1, hidden)

        def work() -> Any:
            out, _ = block(inputs, attention_mask=None, rotary_pos_emb=table)
            return torch.autograd.grad(out, (inputs, *weights), grad)

        return work

    return prepare
