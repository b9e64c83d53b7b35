"""Attention over positions that two ranks share is attention over all of them."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from trainer import Job, run

L, B, HEADS, GROUPS, D = 24, 2, 4, 2, 8
WORKER = str(Path(__file__).with_name("attention_worker.py"))


def attention(query, key, value):
    """Written out: every query against the keys up to its own position, ``[L, b, n·d]``."""
    repeat = query.shape[2] // key.shape[2]
    key, value = (x.repeat_interleave(repeat, dim=2) for x in (key, value))
    scores = torch.einsum("ibnd,jbnd->bnij", query, key) / query.shape[-1] ** 0.5
    later = torch.ones(len(query), len(key), dtype=torch.bool).triu(1)
    shares = scores.masked_fill(later, float("-inf")).softmax(dim=-1)
    return torch.einsum("bnij,jbnd->ibnd", shares, value).flatten(start_dim=2)


@pytest.mark.parametrize("groups", [HEADS, GROUPS])
def test_two_ranks_attend_as_one(tmp_path: Path, groups: int) -> None:
    shapes = {"query": HEADS, "key": groups, "value": groups}
    whole = {
        name: torch.randn(L, B, heads, D, dtype=torch.float64) for name, heads in shapes.items()
    }
    whole["pull"] = torch.randn(L, B, HEADS * D, dtype=torch.float64)
    # Which positions a rank was given, for putting the results back.
    whole["positions"] = torch.arange(L).view(L, 1)
    torch.save(whole, tmp_path / "whole.pt")
    inputs = {name: whole[name].clone().requires_grad_() for name in shapes}
    expected = attention(**inputs)
    expected.backward(whole["pull"])

    run(Job(tmp_path, (), 2, program=(WORKER, str(tmp_path))))
    ranks = [torch.load(tmp_path / f"rank-{rank}.pt") for rank in range(2)]
    positions = torch.cat([rank["positions"] for rank in ranks])
    assert sorted(positions.tolist()) == list(range(L))

    def joined(name: str) -> torch.Tensor:
        parts = torch.cat([rank[name] for rank in ranks])
        return torch.empty_like(parts).index_copy_(0, positions, parts)

    torch.testing.assert_close(joined("output"), expected.detach(), rtol=1e-12, atol=1e-12)
    for name, tensor in inputs.items():
        torch.testing.assert_close(joined(name), tensor.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("groups", [HEADS, GROUPS])
def test_packed_documents_attend_to_themselves(groups: int) -> None:
    from megatron.core import parallel_state
    from megatron.core.packed_seq_params import PackedSeqParams
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer import TransformerConfig
    from megatron.core.transformer.enums import AttnMaskType

    from tst_megatron.trainer.cpu.attention import ScaledDotProductAttention

    dist = torch.distributed
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    try:
        config = TransformerConfig(
            num_layers=1,
            hidden_size=HEADS * D,
            num_attention_heads=HEADS,
            num_query_groups=groups,
            attention_dropout=0.0,
        )
        attend = ScaledDotProductAttention(
            config,
            layer_number=1,
            attn_mask_type=AttnMaskType.causal,
            attention_type="self",
            pg_collection=ProcessGroupCollection.use_mpu_process_groups(),
        )
        ends = [0, 1, 9, 10, L]
        packed = PackedSeqParams(
            qkv_format="thd",
            cu_seqlens_q=torch.tensor(ends, dtype=torch.int32),
            cu_seqlens_kv=torch.tensor(ends, dtype=torch.int32),
        )
        query, key, value = (
            torch.randn(L, 1, heads, D, dtype=torch.float64) for heads in (HEADS, groups, groups)
        )
        output = attend(
            *(x.squeeze(1) for x in (query, key, value)), None, packed_seq_params=packed
        )
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()
    assert output.shape == (L, 1, HEADS * D)
    for begin, end in pairwise(ends):
        alone = attention(*(x[begin:end] for x in (query, key, value)))
        torch.testing.assert_close(output[begin:end], alone, rtol=1e-12, atol=1e-12)
