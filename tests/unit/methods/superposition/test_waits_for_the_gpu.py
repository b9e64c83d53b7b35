"""A superposed micro-batch asks a GPU for nothing that it would have to wait for.

Without a GPU: what is made of its tensors is followed as if it were on one, through every operation
of the forward and the backward pass, and what would bring a number of it to the host fails.
"""

from argparse import Namespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tst_megatron.methods.method import MicroBatch
from tst_megatron.methods.superposition.bags import EMPTY
from tst_megatron.methods.superposition.batch import get_bags
from tst_megatron.methods.superposition.model import BagObjective
from tst_megatron.methods.superposition.phased_dataset import BAGS
from tst_megatron.methods.superposition.schedule import BagSchedule
from tst_megatron.methods.superposition.schedule import Stage as BagStage
from tst_megatron.methods.superposition.settings import Superposition
from tst_megatron.runs.stages import Stage
from tst_megatron.stock.batch import DOCUMENT_BOUNDARIES
from tst_megatron.trainer import forward_step

VOCABULARY, L, B, S = 64, 8, 2, 4
SUPERPOSITION = Superposition(
    BagSchedule((BagStage(S, 8),)), "both", BagObjective(), bag_boundary="document"
)
_ATEN = torch.ops.aten
# Their results' shapes or values are wanted on the host.
_WAITING = {
    _ATEN._local_scalar_dense,
    _ATEN.equal,
    _ATEN.masked_select,
    _ATEN.nonzero,
    _ATEN._unique2,
    _ATEN.unique_consecutive,
    _ATEN.repeat_interleave,
}
# Of them an index that is a mask is made numbers by nonzero.
_INDEXING = {_ATEN.index, _ATEN.index_put, _ATEN.index_put_}


class WaitsError(AssertionError):
    """The GPU would be waited for."""


class OnGpu(TorchDispatchMode):
    """Follows tensors as if they were on a GPU, and all that is made of them."""

    def __init__(self) -> None:
        super().__init__()
        # Held, so that no other gets the address of one that is gone.
        self._storages: dict[int, Any] = {}

    def copy(self, tensor: Tensor) -> Tensor:
        """What ``Tensor.cuda`` makes."""
        copy = tensor.clone()
        self.add(copy)
        return copy

    def add(self, tensor: Tensor) -> None:
        """Follow a tensor where it is."""
        storage = tensor.untyped_storage()
        self._storages[storage._cdata] = storage

    def has(self, tensor: Any) -> bool:
        """Whether it is followed."""
        return isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata in self._storages

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = tree_leaves((args, kwargs or {}))
        is_on_gpu = any(map(self.has, given))
        if is_on_gpu and _waits(func.overloadpacket, args):
            raise WaitsError(str(func))
        result = func(*args, **(kwargs or {}))
        if is_on_gpu:
            for made in tree_leaves(result):
                if isinstance(made, Tensor):
                    self.add(made)
        return result


def _waits(operation: Any, args: Any) -> bool:
    if operation in _INDEXING:
        return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
    return operation in _WAITING


@pytest.fixture
def gpu(model_parallel: Any, monkeypatch: pytest.MonkeyPatch) -> OnGpu:
    gpu = OnGpu()
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor, **kwargs: gpu.copy(tensor))
    for name in ("tolist", "cpu", "numpy"):
        original = getattr(torch.Tensor, name)

        def bring(tensor: Tensor, *args: Any, original: Any = original, **kwargs: Any) -> Any:
            if gpu.has(tensor):
                raise WaitsError(original.__name__)
            return original(tensor, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, bring)
    return gpu


@pytest.mark.parametrize(
    "bring",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).all()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.tolist(),
        lambda x: (x.view(2, 2) + 1).cpu(),
    ],
    ids=["item", "bool", "mask", "nonzero", "tolist", "cpu"],
)
def test_what_waits_is_seen(gpu: OnGpu, bring: Any) -> None:
    with gpu:
        bring(torch.ones(4))
        on_gpu = torch.ones(4).cuda()
        with pytest.raises(WaitsError):
            bring(on_gpu)


def sample(packed: bool) -> dict[str, Tensor]:
    """Of documents of three and of five bags, with empty places."""
    bags = torch.randint(0, VOCABULARY, (B, L + 1, S))
    bags[:, 2, 1:] = EMPTY
    boundaries = torch.tensor([[0, 3, *[L] * (L - 1)]] * B, dtype=torch.int32)
    return {BAGS: bags} | ({DOCUMENT_BOUNDARIES: boundaries} if packed else {})


def wanted(packed: bool, monkeypatch: pytest.MonkeyPatch) -> MicroBatch:
    from megatron.training import training

    monkeypatch.setattr(training, "_seqlen_stats_in_iteration", None)
    args = Namespace(
        seq_length=L,
        sft=False,
        dataloader_inter_document_masking=packed,
        hybrid_layer_pattern="*-",
        mtp_num_layers=None,
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask_in_dataloader=False,
    )
    stage = Stage("bags", 8, S, facts={"bag_size": S})
    return MicroBatch(stage, args, iter([sample(packed)]), None, B)


@pytest.mark.parametrize("packed", [False, True], ids=["", "packed"])
def test_a_batch(gpu: OnGpu, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    micro_batch = wanted(packed, monkeypatch)
    with gpu:
        batch = get_bags(micro_batch, SUPERPOSITION, S)
    assert all(map(gpu.has, (batch.tokens, batch.labels, batch.loss_mask)))
    if packed:
        assert batch.packed_seq_params.cu_seqlens_q.tolist() == [0, 3, L, L + 3, 2 * L]
        assert batch.packed_seq_params.max_seqlen_q == L - 3
        assert batch.packed_seq_params.total_tokens == B * L


@pytest.mark.parametrize(
    "bag_objective", [BagObjective("power"), BagObjective(objective="mce-alt")], ids=str
)
def test_a_micro_batch(
    gpu: OnGpu, bag_objective: BagObjective, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = a_model(bag_objective)
    for parameter in model.parameters():
        gpu.add(parameter)
    micro_batch = wanted(False, monkeypatch)
    # Megatron looks at every micro-batch's loss itself, where it is not told to leave that.
    checks = Namespace(
        logits_load_dir=None, check_for_nan_in_loss_and_grad=False, check_for_spiky_loss=False
    )
    monkeypatch.setattr(forward_step, "get_args", lambda: checks)
    monkeypatch.setattr(forward_step, "get_rerun_state_machine", lambda: None)
    # Copied to the GPU once a run.
    model._weights_of(S, torch.device("cpu"))
    with gpu:
        batch = get_bags(micro_batch, SUPERPOSITION, S)
        losses = model(
            batch.tokens, batch.position_ids, None, labels=batch.labels, loss_mask=batch.loss_mask
        )
        loss, _, report = forward_step.loss_function(batch.loss_mask, "bag loss", model, losses)
        loss.backward()
    assert all(map(gpu.has, (loss, *report.values(), *(p.grad for p in model.parameters()))))


def a_model(bag_objective: BagObjective) -> Any:
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.transformer import TransformerConfig

    from tst_megatron.superposition import SuperposedGPTModel
    from tst_megatron.trainer.cpu.layers import with_fused_attention

    config = TransformerConfig(
        num_layers=1,
        hidden_size=16,
        num_attention_heads=2,
        normalization="RMSNorm",
        hidden_dropout=0.0,
        attention_dropout=0.0,
    )
    return SuperposedGPTModel(
        config=config,
        transformer_layer_spec=with_fused_attention(
            get_gpt_layer_local_spec(normalization="RMSNorm")
        ),
        vocab_size=VOCABULARY,
        max_sequence_length=L,
        position_embedding_type="rope",
        bag_objective=bag_objective,
        has_empty_places=True,
    )
