"""One of two context-parallel ranks: the CPU's attention, forward and backward, on its positions.

``torchrun attention_worker.py FOLDER``: reads ``whole.pt``, writes ``rank-N.pt``.
"""

import sys
from pathlib import Path

from tst_megatron.backends import prepare_backend

prepare_backend()

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.utils import get_batch_on_this_cp_rank

from tst_megatron.trainer.cpu.attention import ScaledDotProductAttention


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    parallel_state.initialize_model_parallel(context_parallel_size=2)
    whole = torch.load(folder / "whole.pt")
    heads, groups = whole["query"].shape[2], whole["key"].shape[2]
    config = TransformerConfig(
        num_layers=1,
        hidden_size=heads * whole["query"].shape[3],
        num_attention_heads=heads,
        num_query_groups=groups,
        attention_dropout=0.0,
        context_parallel_size=2,
    )
    attention = ScaledDotProductAttention(
        config,
        layer_number=1,
        attn_mask_type=AttnMaskType.causal,
        attention_type="self",
        pg_collection=ProcessGroupCollection.use_mpu_process_groups(required_pgs=["tp", "cp"]),
    )
    # Megatron splits along the second dimension, [b, L, ...].
    batch = {name: tensor.transpose(0, 1) for name, tensor in whole.items()}
    group = parallel_state.get_context_parallel_group()
    mine = get_batch_on_this_cp_rank(batch, is_hybrid_cp=False, cp_group=group)
    mine = {name: tensor.transpose(0, 1).contiguous() for name, tensor in mine.items()}
    names = ("query", "key", "value")
    inputs = [mine[name].requires_grad_() for name in names]
    output = attention(*inputs, attention_mask=None)
    output.backward(mine["pull"])
    results = {name: tensor.grad for name, tensor in zip(names, inputs, strict=True)}
    results |= {"output": output.detach(), "positions": mine["positions"].flatten()}
    torch.save(results, folder / f"rank-{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
