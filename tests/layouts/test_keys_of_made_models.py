"""What a model that is made of another one asks a checkpoint for is in the plan of it.

Of Megatron's own layers and of Transformer Engine's, either way: a model of one kind gets experts,
or grows, in one of the other. The models are built without weights, so that only names and shapes
are told.
"""

from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_ranks import (
    LOCAL,
    NO_FILES,
    ON_META,
    TRANSFORMER_ENGINE,
    build,
    megatron_args,
    pretended_gpu,
)
from layouts import Layout
from megatron.core.dist_checkpointing.mapping import (
    ShardedBase,
    ShardedObject,
    ShardedTensor,
    apply_factories,
)
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)

from tst_megatron.checkpoints.saved import COMMON, Saved
from tst_megatron.checkpoints.unwritten import PlanReader
from tst_megatron.huggingface.export import model_of
from tst_megatron.huggingface.families import family_of
from tst_megatron.huggingface.importing import Target
from tst_megatron.huggingface.importing import plan_of as imported_plan
from tst_megatron.huggingface.shape import shape_of
from tst_megatron.huggingface.weights import weights_of
from tst_megatron.methods.growth.layers import GrowthFlags
from tst_megatron.methods.growth.plan import plan_of as growth_plan
from tst_megatron.methods.upcycling.experts import Upcycling
from tst_megatron.methods.upcycling.plan import plan_of
from tst_megatron.planner.fake_ranks import as_rank

_MODEL = (
    *("--hidden-size=64", "--ffn-hidden-size=96", "--num-attention-heads=4", "--swiglu"),
    *("--seq-length=16", "--max-position-embeddings=16", "--position-embedding-type=rope"),
    *("--normalization=RMSNorm", "--disable-bias-linear", "--bf16", "--train-iters=100"),
    *("--untie-embeddings-and-output-weights", "--micro-batch-size=1", "--lr=1e-4"),
    *("--global-batch-size=8", "--padded-vocab-size=1024"),
)
_EXPERTS = (
    *("--num-experts=8", "--moe-router-topk=4", "--moe-ffn-hidden-size=48"),
    *("--moe-token-dispatcher-type=alltoall", "--moe-router-load-balancing-type=none"),
    *("--moe-router-score-function=sigmoid", "--moe-router-enable-expert-bias"),
)
# Flags of the dense model and of the one with experts.
_CASES = {
    "all layers": (("--num-layers=3",), ("--num-layers=3",)),
    "some layers": (("--num-layers=3",), ("--num-layers=3", "--moe-layer-freq=[0,1,1]")),
    "shared experts": (
        ("--num-layers=3",),
        # Shards of 24: one is shared, and three are left for groups.
        (
            *("--num-layers=3", "--moe-ffn-hidden-size=24", "--num-experts=6"),
            *("--moe-router-topk=3", "--moe-shared-expert-intermediate-size=24"),
        ),
    ),
    "prediction": (
        ("--num-layers=3", "--mtp-num-layers=1"),
        ("--num-layers=3", "--mtp-num-layers=1"),
    ),
    "hybrid": (
        ("--hybrid-layer-pattern=*-*-",),
        ("--hybrid-layer-pattern=*-*E",),
    ),
}
_KINDS = {
    "local": LOCAL,
    "transformer_engine": TRANSFORMER_ENGINE,
}


@pytest.mark.usefixtures("transformer_engine")
@pytest.mark.parametrize("case", _CASES)
@pytest.mark.parametrize("before", _KINDS)
@pytest.mark.parametrize("after", _KINDS)
def test_all_that_is_asked_for_is_there(tmp_path: Path, before: str, after: str, case: str) -> None:
    dense, experts = _CASES[case]
    args, asked = _asked(_KINDS[before], dense)
    saved = _Listed(tmp_path, args, asked)
    args, wanted = _asked(_KINDS[after], (*_EXPERTS, *experts))
    plan = plan_of(saved, args, Upcycling())
    listed = plan.listed
    tensors = [one for one in wanted if isinstance(one, ShardedTensor)]
    objects = [one for one in wanted if isinstance(one, ShardedObject)]
    assert any(".experts.experts." in one.key for one in tensors)
    assert {one.key for one in tensors} <= listed.keys()
    for one in tensors:
        assert tuple(listed[one.key].size) == tuple(one.global_shape), one.key
    assert {one.unique_key for one in objects} <= plan.objects.keys()


@pytest.mark.usefixtures("transformer_engine")
@pytest.mark.parametrize("before", _KINDS)
@pytest.mark.parametrize("after", _KINDS)
@pytest.mark.parametrize("case", ["all layers", "hybrid"])
def test_a_grown_model_finds_all_as_it_loads(
    tmp_path: Path, before: str, after: str, case: str
) -> None:
    (small,), _ = _CASES[case]
    large = small.replace("3", "6").replace("*-*-", "*-*-*-*-")
    args, asked = _asked(_KINDS[before], (small,))
    saved = _Listed(tmp_path, args, asked)
    args, wanted = _asked(_KINDS[after], (large,))
    plan = growth_plan(saved, GrowthFlags("stack", int(args.num_layers)))
    listed = PlanReader(plan).read_metadata().state_dict_metadata
    for one in wanted:
        if isinstance(one, ShardedTensor):
            assert one.key in listed
            assert tuple(listed[one.key].size) == tuple(one.global_shape), one.key
        elif isinstance(one, ShardedObject):
            is_of_norm = "norm._extra_state" in one.unique_key
            assert is_of_norm or one.unique_key in plan.objects
            assert one.unique_key in listed
    assert "decoder.layers.mlp.linear_fc3._extra_state/shard_0_6" not in listed
    assert "decoder.layers.mlp.linear_fc3.weight" not in listed


@pytest.mark.usefixtures("transformer_engine")
@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("case", ["dense", "all layers", "some layers"])
def test_an_imported_model_is_whole(kind: str, case: str) -> None:
    experts = "" if case == "dense" else case
    flags = _CASES[experts][1] if experts else ("--num-layers=3",)
    if experts:
        flags = (*_EXPERTS[:4], *flags, "--qk-layernorm")
    args, wanted = _asked(_KINDS[kind], flags)
    shape = shape_of(args, 1000, ties_embeddings=False)
    folder = SimpleNamespace(shape=shape, family=family_of(shape))
    plan = imported_plan(folder, Target(1024, torch.bfloat16, {}))
    listed = plan.listed
    tensors = [one for one in wanted if isinstance(one, ShardedTensor)]
    assert len(tensors) > 10
    for one in tensors:
        assert tuple(listed[one.key].size) == tuple(one.global_shape), one.key
    asked = {one.unique_key for one in wanted if isinstance(one, ShardedObject)}
    assert asked <= plan.objects.keys()


@pytest.mark.usefixtures("transformer_engine")
@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("case", ["all layers", "some layers", "hybrid"])
def test_an_export_finds_every_weight(tmp_path: Path, kind: str, case: str) -> None:
    dense, experts = _CASES[case]
    for flags in (dense, (*_EXPERTS[:4], "--qk-layernorm", *experts)):
        args, asked = _asked(_KINDS[kind], flags)
        model = model_of(_Listed(tmp_path, args, asked), 1000)
        assert model.padding == 24
        listed = model.saved.tensors
        used = {model.places[one].key for one in weights_of(model.shape, model.family.spelling)}
        left = {key for key in listed if "_extra_state" not in key} - used
        # A norm may be there under a second name.
        assert all("norm" in key for key in left), left


def _asked(kind: tuple[str, ...], flags: tuple[str, ...]) -> tuple[Namespace, list[ShardedBase]]:
    """A model's arguments, and all that it asks a checkpoint for."""
    layout = Layout(1)
    words = (*_MODEL, *flags, *layout.all_flags, *NO_FILES, *kind, ON_META)
    with (
        pretended_gpu(with_transformer_engine=kind is TRANSFORMER_ENGINE),
        megatron_args(words, 1) as args,
        as_rank(args, 0),
    ):
        (model,) = build(args, superposed=False)
        state = model.sharded_state_dict(metadata={"singleton_local_shards": False})
        apply_factories(state)
        return Namespace(**vars(args)), list(_flat(state))


def _flat(state: Any) -> Any:
    if isinstance(state, ShardedBase):
        yield state
    elif isinstance(state, dict | list):
        for one in state.values() if isinstance(state, dict) else state:
            yield from _flat(one)


class _Listed(Saved):
    """A checkpoint as far as its list goes, of what a model on one rank would save."""

    def __init__(self, folder: Path, args: Namespace, asked: list[ShardedBase]) -> None:
        self.folder = folder
        listed: dict[str, Any] = {COMMON: BytesStorageMetadata()}
        for one in asked:
            if isinstance(one, ShardedObject):
                listed[one.unique_key] = BytesStorageMetadata()
                continue
            assert isinstance(one, ShardedTensor)
            sizes = (*(1 for _ in range(one.prepend_axis_num)), *one.local_shape)
            chunk = ChunkStorageMetadata(torch.Size(one.global_offset), torch.Size(sizes))
            known = listed.setdefault(
                one.key,
                TensorStorageMetadata(
                    TensorProperties(dtype=one.dtype), torch.Size(one.global_shape), []
                ),
            )
            known.chunks.append(chunk)
        self.metadata = Metadata(state_dict_metadata=listed, storage_data={})
        self.common = {"args": args, "iteration": 1}
