"""What stands in one document does not reach the next one's logits, where a flag says so."""

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tst_megatron.methods.superposition.bags import EMPTY
from tst_megatron.methods.superposition.batch import Documents, bag_batch
from tst_megatron.stock.batch import split_over_context

VOCABULARY, EOD, L, S = 32, 0, 8, 3
# Bags of a document of 7 tokens, one of 4, and the beginning of another.
BEGINS = (0, 3, 5)
BAGS = [
    *([1, 2, 3], [4, 5, 6], [EOD, EMPTY, EMPTY]),
    *([7, 8, 9], [EOD, EMPTY, EMPTY]),
    *([10, 11, 12], [13, 14, 15], [16, 17, 18], [19, 20, 21]),
]


@pytest.fixture(scope="module")
def model():
    from megatron.core import parallel_state
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
    from megatron.core.transformer import TransformerConfig

    from tst_megatron.superposition import SuperposedGPTModel
    from tst_megatron.trainer.cpu.layers import with_fused_attention

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    model_parallel_cuda_manual_seed(1)
    config = TransformerConfig(
        num_layers=2,
        hidden_size=32,
        num_attention_heads=4,
        normalization="RMSNorm",
        hidden_dropout=0.0,
        attention_dropout=0.0,
    )
    yield SuperposedGPTModel(
        config=config,
        transformer_layer_spec=with_fused_attention(
            get_gpt_layer_local_spec(normalization="RMSNorm")
        ),
        vocab_size=VOCABULARY,
        max_sequence_length=L,
        position_embedding_type="learned_absolute",
        has_empty_places=True,
    )
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()


def logits(model, bags: Tensor, way: str) -> Tensor:
    """``[b, L, V]``, of documents kept apart in one way, or not at all."""
    args = SimpleNamespace(
        create_attention_mask_in_dataloader=way != "packed",
        reset_attention_mask=way == "masked",
        reset_position_ids=way == "masked",
        eod_mask_loss=False,
        hybrid_layer_pattern=None,
        seq_length=L,
    )
    boundaries = None
    if way == "packed":
        begins = [*BEGINS, *[L] * (L + 1 - len(BEGINS))]
        boundaries = torch.tensor([begins] * len(bags), dtype=torch.int32)
    documents = Documents(EOD if way == "masked" else None, boundaries)
    whole = bag_batch(args, bags, True, documents)
    batch = split_over_context(args, whole, boundaries)
    with torch.no_grad():
        output = model(
            batch.tokens,
            batch.position_ids,
            batch.attention_mask,
            packed_seq_params=batch.packed_seq_params,
        )
    return output.view(len(bags), L, -1)


@pytest.mark.parametrize("way", ["mixed", "masked", "packed"])
@pytest.mark.parametrize("document", [0, 1])
def test_a_token_reaches_its_own_document_alone(model, document: int, way: str) -> None:
    bags = torch.tensor([BAGS, BAGS])
    changed = bags.clone()
    changed[0, BEGINS[document], 1] = 30
    moved = (logits(model, bags, way) - logits(model, changed, way)).abs().amax(dim=-1) > 0
    begin, end = BEGINS[document], BEGINS[document + 1]
    reached = range(begin, L if way == "mixed" else end)
    assert moved[0].tolist() == [i in reached for i in range(L)]
    assert not moved[1].any()


@pytest.mark.parametrize("way", ["masked", "packed"])
def test_a_document_is_read_as_if_it_stood_alone(model, way: str) -> None:
    """The second document's logits are those of a sample that begins with it."""
    bags = torch.tensor([BAGS])
    alone = torch.tensor([BAGS[3:5] + [[25, 26, 27]] * 7])
    together = logits(model, bags, way)[0, 3:5]
    torch.testing.assert_close(logits(model, alone, "mixed")[0, :2], together)


def test_megatrons_heads_move_bags_inside_packed_documents(model) -> None:
    from megatron.core.packed_seq_params import PackedSeqParams
    from megatron.core.transformer import multi_token_prediction as megatron_mtp

    from tst_megatron.methods.superposition.multi_token_prediction import let_heads_predict_bags

    let_heads_predict_bags()
    ends = torch.tensor([*BEGINS, L], dtype=torch.int32)
    packed = PackedSeqParams(qkv_format="thd", cu_seqlens_q=ends, cu_seqlens_kv=ends)
    bags = torch.tensor([BAGS[:L]])
    moved, total = megatron_mtp.roll_tensor(bags, -1, -1, None, packed)
    wanted = [[0] * S if i + 1 in (*BEGINS, L) else BAGS[i + 1] for i in range(L)]
    assert moved.tolist() == [wanted]
    assert total == moved.sum()
    mask, _ = megatron_mtp.roll_tensor(torch.ones(1, L), -1, -1, None, packed)
    assert mask.tolist() == [[float(i + 1 not in (*BEGINS, L)) for i in range(L)]]
