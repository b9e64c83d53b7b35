"""What each of two tensor-parallel processes computes; `test_loss_split_vocabulary` compares it.

A module of its own because a spawned process imports it by name.
"""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from reference import EMPTY, SCHEMES, SIZES
from torch import Tensor

TP = 2
L, B, VOCABULARY, HIDDEN = 4, 3, 10, 8
EMBEDDING_SIZES = (1, 2, 3, 4, 6, 16)


@dataclass(frozen=True)
class Case:
    """One call of the loss; weights: a scheme, ``given`` for ``[L, b, s]``, or none at all."""

    weights: str | None
    objective: str
    bag_size: int
    empty: bool = False
    extreme: bool = False
    dtype: torch.dtype = torch.float32
    implementation: str = "eager"
    fused: bool = False

    def __str__(self) -> str:
        marks = [m for m in ("empty", "extreme", "fused") if getattr(self, m)]
        if self.implementation != "eager":
            marks.append(self.implementation)
        if self.dtype != torch.float32:
            marks.append("bfloat16")
        return "-".join([self.objective, str(self.weights), str(self.bag_size), *marks])


CASES = [
    *(Case(weights, "mce", s) for s in SIZES for weights in (*SCHEMES, "given", None)),
    *(Case(None, "mce-alt", s) for s in SIZES),
    *(Case(weights, "mce", s, empty=True) for s in SIZES for weights in (*SCHEMES, None)),
    *(Case(None, "mce-alt", s, empty=True) for s in SIZES),
    *(Case(None, objective, s, extreme=True) for s in SIZES for objective in ("mce", "mce-alt")),
    *(
        Case(None, objective, s, dtype=torch.bfloat16)
        for s in (1, 6)
        for objective in ("mce", "mce-alt")
    ),
    *(
        Case(None, objective, 6, empty=True, implementation=implementation, fused=True)
        for objective in ("mce", "mce-alt")
        for implementation in ("compiled", "kernel")
    ),
    *(
        Case(None, objective, 6, extreme=True, implementation="kernel")
        for objective in ("mce", "mce-alt")
    ),
]

# 12 rows in three chunks; a rank's 300 ids in three blocks.
CHUNK_SIZE, CHUNKED_VOCABULARY = 5, 600
CHUNKED = [
    *(
        (objective, dtype, sequence_parallel, "eager")
        for objective in ("mce", "mce-alt")
        for dtype in (torch.float32, torch.bfloat16)
        for sequence_parallel in (False, True)
    ),
    ("mce", torch.float32, True, "kernel"),
    ("mce-alt", torch.float32, False, "kernel"),
]
"""Losses of hidden states: objective, dtype, whether the sequence is split as well, and how."""


def inputs(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Whole-vocabulary logits, targets, given weights ``[L, b, s]`` and returning gradient."""
    generator = torch.Generator().manual_seed(CASES.index(case))
    logits = torch.randn(L, B, VOCABULARY, generator=generator) * 3
    if case.extreme:
        logits = logits.round()
        logits += 1e4 * torch.randint(-1, 2, logits.shape, generator=generator)
    targets = torch.randint(0, VOCABULARY, (L, B, case.bag_size), generator=generator)
    # Bags that lie on one rank only, and one token filling a bag.
    targets[0, 0] %= VOCABULARY // 2
    targets[0, 1] = targets[0, 1] % (VOCABULARY // 2) + VOCABULARY // 2
    targets[0, 2] = VOCABULARY - 1
    if case.empty:
        targets[torch.rand(targets.shape, generator=generator) < 0.4] = EMPTY
        targets[1, 1] = EMPTY
    weights = torch.rand(targets.shape, generator=generator) * 2
    weights[torch.rand(targets.shape, generator=generator) < 0.3] = 0.0
    grad_output = torch.randn(L, B, generator=generator)
    return logits.to(case.dtype), targets, weights, grad_output


def chunked_inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Whole hidden states ``[L, b, h]``, whole table, targets of 6 and returning gradient."""
    generator = torch.Generator().manual_seed(7)
    hidden = torch.randn(L, B, HIDDEN, generator=generator).to(dtype)
    table = torch.randn(CHUNKED_VOCABULARY, HIDDEN, generator=generator).to(dtype)
    targets = torch.randint(0, CHUNKED_VOCABULARY, (L, B, 6), generator=generator)
    targets[0, 0] %= CHUNKED_VOCABULARY // 2
    targets[0, 1] = CHUNKED_VOCABULARY - 1
    targets[torch.rand(targets.shape, generator=generator) < 0.3] = EMPTY
    return hidden, table, targets, torch.randn(L, B, generator=generator)


def embedding_inputs(bag_size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Whole table ``[V, h]``, bags ``[b, L, s]`` and returning gradient ``[b, L, h]``."""
    generator = torch.Generator().manual_seed(bag_size)
    table = torch.randn(VOCABULARY, HIDDEN, generator=generator).to(dtype)
    bags = torch.randint(0, VOCABULARY, (B, L, bag_size), generator=generator)
    bags[0, 0] %= VOCABULARY // 2
    bags[0, 1] = bags[0, 1] % (VOCABULARY // 2) + VOCABULARY // 2
    return table, bags, torch.randn(B, L, HIDDEN, generator=generator).to(dtype)


def bags_with_empty_places(bags: Tensor) -> Tensor:
    """Some places hold no token, and one bag none at all; the first token of a shard is nowhere."""
    generator = torch.Generator().manual_seed(bags.shape[-1])
    bags = bags + (bags % (VOCABULARY // TP) == 0).long()
    bags[torch.rand(bags.shape, generator=generator) < 0.4] = EMPTY
    bags[2, 3] = EMPTY
    return bags


def shard(whole: Tensor, rank: int, dim: int) -> Tensor:
    return whole.chunk(TP, dim=dim)[rank].contiguous()


def run(rank: int, folder: str) -> None:
    """Compute every case on this rank's half of the vocabulary and save it in ``folder``."""
    torch.set_num_threads(1)
    # The CPU backend, which the parent process loaded, switches torch's compiler off.
    os.environ.pop("TORCHDYNAMO_DISABLE", None)
    os.environ["TRITON_INTERPRET"] = "1"
    # Megatron's reduce-scatter makes its output here. The whole CPU backend takes longer to load.
    torch.cuda.current_device = lambda: torch.device("cpu")
    store = dist.FileStore(str(Path(folder) / "store"), TP)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=TP)
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(tensor_model_parallel_size=TP)
    results = {
        "loss": {str(case): _loss(case, rank) for case in CASES},
        "stock loss": {str(case): _stock_loss(case, rank) for case in CASES if case.bag_size == 1},
        "chunked loss": {case: _chunked_loss(*case, rank) for case in CHUNKED},
        "embedding": {
            (bag_size, dtype, sequence_parallel): _embedding(
                bag_size, dtype, sequence_parallel, rank
            )
            for bag_size in EMBEDDING_SIZES
            for dtype in (torch.float32, torch.bfloat16)
            for sequence_parallel in (False, True)
        },
        "embedding of filled places": {
            (bag_size, dtype): _embedding(bag_size, dtype, False, rank, has_empty_places=True)
            for bag_size in EMBEDDING_SIZES[1:]
            for dtype in (torch.float32, torch.bfloat16)
        },
        "stock embedding": {
            sequence_parallel: _embedding(
                1, torch.float32, sequence_parallel, rank, superposed=False
            )
            for sequence_parallel in (False, True)
        },
        "traffic": _traffic(),
    }
    torch.save(results, Path(folder) / f"{rank}.pt")
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()


def _loss(case: Case, rank: int) -> tuple[Tensor, Tensor]:
    from tst_megatron.methods.superposition.bags import bag_weights, weights_of_filled
    from tst_megatron.methods.superposition.loss import multi_hot_cross_entropy

    logits, targets, given, grad_output = inputs(case)
    weights = None
    if case.weights == "given":
        weights = given
    elif case.weights is not None:
        weights = bag_weights(case.weights, case.bag_size)
        if case.empty:
            weights = weights_of_filled(weights, targets)
    leaf = shard(logits, rank, -1).requires_grad_()
    loss = multi_hot_cross_entropy(
        leaf,
        targets,
        weights=weights,
        objective=case.objective,
        implementation=case.implementation,
        fused_all_reduce=case.fused,
    )
    loss.backward(grad_output)
    return loss.detach(), leaf.grad


def _chunked_loss(
    objective: str, dtype: torch.dtype, sequence_parallel: bool, implementation: str, rank: int
) -> dict[str, Tensor]:
    from tst_megatron.methods.superposition.chunked_logits import chunked_multi_hot_cross_entropy

    hidden, table, targets, grad_output = chunked_inputs(dtype)
    hidden = (shard(hidden, rank, 0) if sequence_parallel else hidden).requires_grad_()
    weight = shard(table, rank, 0).requires_grad_()
    loss = chunked_multi_hot_cross_entropy(
        hidden,
        weight,
        targets,
        objective=objective,
        chunk_size=CHUNK_SIZE,
        implementation=implementation,
        sequence_parallel=sequence_parallel,
    )
    loss.backward(grad_output)
    return {"loss": loss.detach(), "hidden": hidden.grad, "weight": weight.grad}


def _stock_loss(case: Case, rank: int) -> tuple[Tensor, Tensor]:
    from megatron.core.tensor_parallel import vocab_parallel_cross_entropy

    logits, targets, _, grad_output = inputs(case)
    leaf = shard(logits, rank, -1).requires_grad_()
    loss = vocab_parallel_cross_entropy(leaf, targets[..., 0].contiguous())
    loss.backward(grad_output)
    return loss.detach(), leaf.grad


def _module(dtype: torch.dtype, sequence_parallel: bool, superposed: bool) -> torch.nn.Module:
    from megatron.core import ModelParallelConfig
    from megatron.core.tensor_parallel import VocabParallelEmbedding

    from tst_megatron.methods.superposition.embedding import SuperposedVocabParallelEmbedding

    return (SuperposedVocabParallelEmbedding if superposed else VocabParallelEmbedding)(
        VOCABULARY,
        HIDDEN,
        init_method=torch.nn.init.normal_,
        reduce_scatter_embeddings=sequence_parallel,
        config=ModelParallelConfig(
            tensor_model_parallel_size=TP,
            sequence_parallel=sequence_parallel,
            use_cpu_initialization=True,
            params_dtype=dtype,
        ),
    )


def _embedding(
    bag_size: int,
    dtype: torch.dtype,
    sequence_parallel: bool,
    rank: int,
    superposed: bool = True,
    has_empty_places: bool = False,
) -> tuple[Tensor, Tensor]:
    table, bags, grad_output = embedding_inputs(bag_size, dtype)
    module = _module(dtype, sequence_parallel, superposed)
    if has_empty_places:
        module.has_empty_places, bags = True, bags_with_empty_places(bags)
    module.weight.data.copy_(shard(table, rank, 0))
    output = module(bags if superposed else bags[..., 0])
    if sequence_parallel:
        # [b, L, h] -> this rank's [L/tp, b, h].
        grad_output = shard(grad_output.transpose(0, 1), rank, 0)
    output.backward(grad_output)
    return output.detach(), module.weight.grad


def _traffic() -> list[list[int]]:
    """Elements of each collective of mce, mce-alt and the embedding, for bags of 6.

    Of the losses twice: as they are, and with both sums in one; these by the kernels. Last, of
    logits in chunks.
    """
    from tst_megatron.methods.superposition.chunked_logits import chunked_multi_hot_cross_entropy
    from tst_megatron.methods.superposition.loss import multi_hot_cross_entropy

    seen: list[int] = []
    original = dist.all_reduce

    def counted(tensor: Tensor, *args, **kwargs):
        seen.append(tensor.numel())
        return original(tensor, *args, **kwargs)

    logits = torch.zeros(L, B, VOCABULARY // TP)
    bags = torch.zeros(L, B, 6, dtype=torch.int64)
    fused = partial(multi_hot_cross_entropy, implementation="kernel", fused_all_reduce=True)
    calls = [
        partial(multi_hot_cross_entropy, logits, bags),
        partial(multi_hot_cross_entropy, logits, bags, objective="mce-alt"),
        partial(_module(torch.float32, False, True), bags),
        partial(fused, logits, bags),
        partial(fused, logits, bags, objective="mce-alt"),
        partial(
            chunked_multi_hot_cross_entropy,
            torch.zeros(L, B, HIDDEN),
            torch.zeros(VOCABULARY // TP, HIDDEN),
            bags,
            chunk_size=CHUNK_SIZE,
        ),
    ]
    traffic = []
    dist.all_reduce = counted
    try:
        for call in calls:
            seen.clear()
            call()
            traffic.append(list(seen))
    finally:
        dist.all_reduce = original
    return traffic
