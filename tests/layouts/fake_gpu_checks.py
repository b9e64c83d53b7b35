"""Embedding, loss and batch code on tensors of a GPU that is not there.

The one idea: torch's ``FakeTensorMode`` carries shape, dtype and device through every operation and
computes nothing, so code that would meet a tensor of another device, wait for the GPU, or ask for
too much memory shows it on any machine. What a kernel does inside is not seen.

Not collected with the other tests: the CPU backend reads ``device="cuda"`` as the CPU.
`test_on_a_fake_gpu` runs this file in a process without it.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from megatron.core import ModelParallelConfig, parallel_state
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tst_megatron.methods.superposition import batch as batch_code
from tst_megatron.methods.superposition import loss_kernels
from tst_megatron.methods.superposition.bags import BAG_WEIGHTS
from tst_megatron.methods.superposition.chunked_logits import chunked_multi_hot_cross_entropy
from tst_megatron.methods.superposition.embedding import SuperposedVocabParallelEmbedding
from tst_megatron.methods.superposition.loss import OBJECTIVES, multi_hot_cross_entropy
from tst_megatron.methods.superposition.model import BagObjective, SuperpositionMixin
from tst_megatron.methods.superposition.phased_dataset import BAGS
from tst_megatron.stock import batch as stock_batch

_GPU = torch.device("cuda", 0)
_BATCH, _LENGTH, _BAG_SIZE, _HIDDEN, _VOCABULARY = 2, 2048, 16, 1024, 32768
_FLOAT32_BYTES = 4
# Operations that make a tensor and compute nothing on a GPU.
_NO_LAUNCH = (
    *("aten.empty.memory_format", "aten.empty_like.default", "aten.new_empty.default"),
    *("aten.scalar_tensor.default", "aten.detach.default"),
)


class Watch(TorchDispatchMode):
    """Looks at every operation: devices of what it makes, its memory, and copies that wait.

    Attributes:
        devices: kinds of device on which anything was made.
        largest: bytes of the largest storage made; views make none.
        waiting_copies: operations that copy to the GPU and wait until it is done.
        launches: operations that a GPU runs a kernel or more for; views and empty tensors are none.
        collectives: bytes of each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.devices: set[str] = set()
        self.largest = 0
        self.waiting_copies: list[str] = []
        self.launches: list[str] = []
        self.collectives: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        result = func(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        storages = {tensor.untyped_storage()._cdata for tensor in given}
        if "c10d" in str(func):
            self.collectives.append(given[0].nbytes)
        elif str(func).startswith("aten.") and not (func.is_view or str(func) in _NO_LAUNCH):
            self.launches.append(str(func))
        for tensor in made:
            self.devices.add(tensor.device.type)
            if tensor.untyped_storage()._cdata not in storages:
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        if any(t.is_cuda for t in (*made, *given)) and not kwargs.get("non_blocking"):
            # Numbers travel with the launch of a kernel; a tensor is copied.
            self.waiting_copies += [str(func) for t in given if t.is_cpu and t.dim()]
        return result


def backward(output: Tensor) -> tuple[list[Tensor], set[str]]:
    """Run the backward pass node by node: torch's engine wants the GPU itself.

    Returns:
        The gradients of the leaves, and the names of the nodes that were run.
    """
    assert output.grad_fn is not None
    arrived: dict[Any, dict[int, Tensor]] = defaultdict(dict)
    arrived[output.grad_fn][0] = torch.ones_like(output)
    leaves, names = [], set()
    with torch.no_grad():
        for node in _in_order(output.grad_fn):
            names.add(node.name())
            gradients = [arrived[node].get(i) for i in range(max(arrived[node]) + 1)]
            if hasattr(node, "variable"):
                leaves += gradients
                continue
            run = getattr(node, "apply", node)
            results = run(*gradients)
            results = results if isinstance(results, tuple) else (results,)
            for (target, place), gradient in zip(node.next_functions, results, strict=False):
                if target is not None and gradient is not None:
                    earlier = arrived[target].get(place)
                    arrived[target][place] = gradient if earlier is None else earlier + gradient
    return leaves, names


def _in_order(root: Any) -> list[Any]:
    """Every node after all that send it a gradient."""
    done: dict[Any, None] = {}

    def visit(node: Any) -> None:
        if node not in done:
            for target, _ in node.next_functions:
                if target is not None:
                    visit(target)
            done[node] = None

    visit(root)
    return list(reversed(done))


@contextmanager
def fake_gpu() -> Iterator[Watch]:
    """Tensors are fake, and questions about the GPU are answered for one."""
    with (
        patch("torch.cuda.current_device", lambda: _GPU),
        patch("torch.cuda.get_device_capability", lambda *args: (10, 0)),
        patch("torch.cuda._exchange_device", lambda device: device),
        patch("torch.cuda._maybe_exchange_device", lambda device: device),
        FakeTensorMode(),
        Watch() as watch,
    ):
        yield watch


@pytest.fixture(params=[1, 2], ids=["whole", "split"])
def tp_group(request: pytest.FixtureRequest) -> Iterator[dist.ProcessGroup]:
    """A tensor-parallel group of one or two, beside two context-parallel ranks."""
    size = request.param
    dist.init_process_group("fake", rank=0, world_size=2 * size, store=FakeStore())
    parallel_state.initialize_model_parallel(
        size, context_parallel_size=2, create_gloo_process_groups=False
    )
    yield parallel_state.get_tensor_model_parallel_group()
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()


def _bags(positions: int = _LENGTH, **kwargs: Any) -> Tensor:
    return torch.zeros(
        _BATCH, positions, _BAG_SIZE, dtype=torch.int64, **({"device": _GPU} | kwargs)
    )


def _assert_stays_on_gpu(watch: Watch) -> None:
    assert watch.devices == {"cuda"}
    assert watch.waiting_copies == []


def test_waiting_for_the_gpu_is_seen() -> None:
    with fake_gpu(), pytest.raises(DataDependentOutputException):
        torch.ones(2, device=_GPU).sum().item()


def test_tensors_elsewhere_and_copies_are_seen() -> None:
    with fake_gpu() as watch:
        torch.ones(2).to(_GPU)
    assert watch.devices == {"cpu", "cuda"}
    assert len(watch.waiting_copies) == 1


@pytest.mark.parametrize("has_empty_places", [False, True], ids=["", "empty-places"])
@pytest.mark.parametrize("sequence_parallel", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_embedding(
    tp_group, dtype: torch.dtype, sequence_parallel: bool, has_empty_places: bool
) -> None:
    size = tp_group.size()
    sequence_parallel = sequence_parallel and size > 1
    config = ModelParallelConfig(
        tensor_model_parallel_size=size,
        sequence_parallel=sequence_parallel,
        perform_initialization=False,
        params_dtype=dtype,
    )
    with fake_gpu():
        table = SuperposedVocabParallelEmbedding(
            _VOCABULARY,
            _HIDDEN,
            init_method=lambda weight: weight,
            reduce_scatter_embeddings=sequence_parallel,
            config=config,
            tp_group=tp_group,
        )
        table.has_empty_places = has_empty_places
        bags = _bags()
        with Watch() as forward:
            output = table(bags)
        with Watch() as backwards:
            (gradient,), _ = backward(output)
    positions = _LENGTH // size if sequence_parallel else _LENGTH
    leading = (positions, _BATCH) if sequence_parallel else (_BATCH, positions)
    assert output.shape == (*leading, _HIDDEN)
    assert output.dtype == dtype
    assert gradient.shape == table.weight.shape
    assert gradient.dtype == dtype
    _assert_stays_on_gpu(forward)
    _assert_stays_on_gpu(backwards)
    # The rows of all tokens, s times the output, are never there at once.
    assert forward.largest <= _BATCH * _LENGTH * _HIDDEN * _FLOAT32_BYTES
    assert backwards.largest <= max(table.weight.numel(), output.numel()) * _FLOAT32_BYTES


class Launched:
    """Stands for a kernel of ours: what it is launched with, and nothing of what it computes."""

    def __init__(self) -> None:
        self.grids: list[tuple[int, ...]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*args: Any, **constants: int) -> None:
            self.grids.append(grid)
            assert all(arg.is_cuda for arg in args if isinstance(arg, Tensor))
            assert all(arg.is_contiguous() for arg in args if isinstance(arg, Tensor))

        return launch


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> tuple[Launched, Launched]:
    """Those of the forward and the backward pass."""
    read, write = Launched(), Launched()
    monkeypatch.setattr(loss_kernels, "_read_row", read)
    monkeypatch.setattr(loss_kernels, "_write_row", write)
    return read, write


def _loss_and_gradient(tp_group: Any, dtype: torch.dtype, **how: Any) -> tuple[Watch, Watch]:
    """The loss forward and backward, which are watched; it is what and where it should be."""
    with fake_gpu():
        shape = (_LENGTH, _BATCH, _VOCABULARY // tp_group.size())
        logits = torch.zeros(shape, dtype=dtype, device=_GPU, requires_grad=True)
        # The head's output is not a leaf: the loss may write into it. A view allocates nothing.
        head = logits.view_as(logits)
        targets = _bags().transpose(0, 1).contiguous()
        with Watch() as forward:
            loss = multi_hot_cross_entropy(head, targets, tp_group=tp_group, **how)
        with Watch() as backwards:
            (gradient,), names = backward(loss)
    assert loss.shape == (_LENGTH, _BATCH)
    assert loss.dtype == torch.float32
    assert gradient.shape == logits.shape
    assert any("MultiHotCrossEntropy" in name for name in names)
    for watch in (forward, backwards):
        _assert_stays_on_gpu(watch)
    return forward, backwards


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss(tp_group, dtype: torch.dtype, objective: str) -> None:
    watches = _loss_and_gradient(tp_group, dtype, objective=objective, implementation="eager")
    # A block of a sixteenth of the logits in float32, whatever their dtype.
    logits = _LENGTH * _BATCH * _VOCABULARY // tp_group.size()
    assert max(watch.largest for watch in watches) <= logits * _FLOAT32_BYTES // 8


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_loss_in_kernels(tp_group, objective: str, kernels) -> None:
    forward, backwards = _loss_and_gradient(
        tp_group, torch.bfloat16, objective=objective, implementation="kernel"
    )
    # A program a row, either way.
    assert [kernel.grids for kernel in kernels] == [[(_LENGTH * _BATCH,)]] * 2
    # Besides them there are at most ids of the bags, or for each pair of places whether they agree.
    largest = _LENGTH * _BATCH * _BAG_SIZE * max(8, _BAG_SIZE)
    assert max(forward.largest, backwards.largest) <= largest
    # What is about bags, and a shard's part of them; on the way back what is pulled alone, of the
    # ones that `backward` makes. Around compiled passes they were 30 or more, and 11.
    launches = {"mce": 17, "mce-alt": 20}[objective] + (11 if tp_group.size() > 1 else 0)
    assert len(forward.launches) <= launches, forward.launches
    assert backwards.launches == ["aten.ones_like.default", "aten.mul.Tensor"]


def test_loss_of_logits_in_chunks(tp_group, kernels) -> None:
    size, rows, dtype = tp_group.size(), 512, torch.bfloat16
    with fake_gpu():
        made = {"dtype": dtype, "device": _GPU, "requires_grad": True}
        hidden = torch.zeros(_LENGTH // size, _BATCH, _HIDDEN, **made)
        weight = torch.zeros(_VOCABULARY // size, _HIDDEN, **made)
        targets = _bags().transpose(0, 1).contiguous()
        with Watch() as watch:
            loss = chunked_multi_hot_cross_entropy(
                hidden,
                weight,
                targets,
                tp_group=tp_group,
                chunk_size=rows,
                implementation="kernel",
                sequence_parallel=size > 1,
            )
            gradients, names = backward(loss)
    assert loss.shape == (_LENGTH, _BATCH)
    assert loss.dtype == torch.float32
    assert {gradient.shape for gradient in gradients} == {hidden.shape, weight.shape}
    assert {gradient.dtype for gradient in gradients} == {dtype}
    assert any("ChunkedMultiHotCrossEntropy" in name for name in names)
    _assert_stays_on_gpu(watch)
    # Blocks of rows forward, and of ids, with all rows, backward.
    chunks = _LENGTH * _BATCH // rows
    grids = [[(rows,)] * chunks, [(_LENGTH * _BATCH,)] * chunks]
    assert [kernel.grids for kernel in kernels] == grids
    # A chunk, or the gradient of the weight or in float32 that of the hidden states.
    sizes = rows * weight.shape[0] * 2, weight.numel() * 2, _LENGTH * _BATCH * _HIDDEN * 4
    assert watch.largest <= max(sizes)


@pytest.mark.parametrize("weights", BAG_WEIGHTS)
def test_a_models_weights_are_copied_once(tp_group, weights: str, kernels) -> None:
    model = _model(tp_group, BagObjective(weights))
    with fake_gpu():
        logits = torch.zeros(_LENGTH, _BATCH, _VOCABULARY // tp_group.size(), device=_GPU)
        with Watch() as first:
            model.compute_language_model_loss(_bags(), logits)
        with Watch() as second:
            loss = model.compute_language_model_loss(_bags(), logits)
    assert first.waiting_copies
    assert loss.shape == (_BATCH, _LENGTH)
    _assert_stays_on_gpu(second)


@pytest.mark.parametrize("fused", [False, True])
def test_a_model_fuses_its_sums_as_megatron_does(tp_group, fused: bool, kernels) -> None:
    model = _model(tp_group, BagObjective(), fused)
    with fake_gpu():
        logits = torch.zeros(_LENGTH, _BATCH, _VOCABULARY // tp_group.size(), device=_GPU)
        with Watch() as watch:
            model.compute_language_model_loss(_bags(), logits)
    a_row = _LENGTH * _BATCH * _FLOAT32_BYTES
    expected = [a_row, 2 * a_row] if fused else [a_row] * 3
    assert watch.collectives == (expected if tp_group.size() > 1 else [])


def _model(tp_group: Any, bag_objective: BagObjective, fused: bool = False) -> Any:
    class Groups:
        pg_collection = SimpleNamespace(tp=tp_group)
        config = SimpleNamespace(mtp_num_layers=None, cross_entropy_loss_fusion=fused)

    class Model(SuperpositionMixin, Groups):
        pass

    return Model(bag_objective=bag_objective, loss_implementation="kernel")


@pytest.mark.parametrize("with_mask", [False, True], ids=["", "attention-mask"])
@pytest.mark.parametrize("predicts_bags", [True, False], ids=["bags", "tokens"])
@pytest.mark.parametrize("documents", [None, batch_code.Documents(eod=0)], ids=["", "documents"])
def test_batch(tp_group, predicts_bags: bool, with_mask: bool, documents: Any) -> None:
    args = SimpleNamespace(
        create_attention_mask_in_dataloader=with_mask,
        reset_attention_mask=True,
        reset_position_ids=True,
        eod_mask_loss=True,
    )
    with fake_gpu():
        shape = (_BATCH, _LENGTH + 1, _BAG_SIZE)
        sample = {BAGS: _bags(_LENGTH + 1, device="cpu")}
        with Watch() as watch:
            sample = batch_code._broadcast_sample(iter([sample]), shape, has_boundaries=False)
            whole = batch_code.bag_batch(args, sample.bags, predicts_bags, documents)
        with Watch() as splitting:
            batch = batch_code.split_over_context(args, whole)
    bag = (_BAG_SIZE,)
    assert batch.tokens.shape == (_BATCH, _LENGTH // 2, *bag)
    assert batch.labels.shape == (_BATCH, _LENGTH // 2, *(bag if predicts_bags else ()))
    assert batch.loss_mask.shape == batch.position_ids.shape == (_BATCH, _LENGTH // 2)
    assert batch.tokens.dtype == batch.labels.dtype == batch.position_ids.dtype == torch.int64
    assert batch.loss_mask.dtype == torch.float32
    given = [batch.tokens, batch.labels, batch.loss_mask, batch.position_ids]
    if with_mask:
        assert batch.attention_mask.shape == (_BATCH, 1, _LENGTH // 2, _LENGTH)
        assert batch.attention_mask.dtype == torch.bool
        given.append(batch.attention_mask)
    assert {tensor.device.type for tensor in given} == {"cuda"}
    _assert_stays_on_gpu(watch)
    # Megatron makes the index of a context-parallel rank's positions on the CPU.
    assert splitting.waiting_copies == []
    # The head of the same positions is far larger.
    logits = _BATCH * _LENGTH * _VOCABULARY // tp_group.size() * _FLOAT32_BYTES
    assert max(watch.largest, splitting.largest) <= logits // 8


def test_lengths_of_documents_follow_the_tokens() -> None:
    """Those of the host, whose numbers nobody has waited for."""
    # What is not on a GPU cannot be pinned for it.
    with fake_gpu(), patch("torch.Tensor.pin_memory", lambda tensor: tensor):
        lengths = torch.zeros(5, dtype=torch.int32)
        with Watch() as watch:
            moved = stock_batch._beside_tokens(lengths, {"tokens": _bags()})
            stays = stock_batch._beside_tokens(moved, {"tokens": _bags()})
    assert stays is moved
    assert moved.dtype == torch.int32
    _assert_stays_on_gpu(watch)
