"""What each of two context-parallel processes rolls; `test_multi_token_prediction` compares it.

A module of its own because a spawned process imports it by name.
"""

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

CP, TIMES = 2, 3
L, B = 16, 3
SIZES = (None, 1, 3)
"""Bag sizes; None for single tokens ``[b, L]``."""


def ids(bag_size: int | None) -> Tensor:
    """``[b, L]`` or ``[b, L, s]``: no two alike, and none 0."""
    shape = (B, L) if bag_size is None else (B, L, bag_size)
    return torch.arange(1, torch.Size(shape).numel() + 1).view(shape)


def split(whole: Tensor, rank: int) -> Tensor:
    """A rank's two chunks of the positions (megatron.core.utils.get_batch_on_this_cp_rank)."""
    chunks = whole.chunk(2 * CP, dim=1)
    return torch.cat([chunks[rank], chunks[2 * CP - 1 - rank]], dim=1)


def run(rank: int, folder: str) -> None:
    """Roll this rank's positions several times in a row, and save every result in ``folder``."""
    torch.set_num_threads(1)
    torch.cuda.current_device = lambda: torch.device("cpu")
    store = dist.FileStore(str(Path(folder) / "store"), CP)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=CP)
    from megatron.core.transformer import multi_token_prediction as megatron_mtp

    from tst_megatron.methods.superposition.multi_token_prediction import let_heads_predict_bags

    let_heads_predict_bags()
    results = {}
    for bag_size in SIZES:
        moved, results[bag_size] = split(ids(bag_size), rank), []
        for _ in range(TIMES):
            moved, total = megatron_mtp.roll_tensor(
                moved, shifts=-1, dims=-1, cp_group=dist.group.WORLD
            )
            results[bag_size].append((moved.clone(), total))
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
