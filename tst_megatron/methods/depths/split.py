"""How a sequence is cut over ranks, and put together again.

The one idea: highest scores are taken in every part by itself, so that a rank needs nothing of the
others'; a rule lets in any number of tokens, so where a sequence is cut it is put together first,
and what was chosen is cut again, into equal shares. Both go through autograd.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Cut by context parallelism into chunks, of which each rank has two, and what a rank has by
    sequence parallelism.

    Attributes:
        tensor: the group of sequence parallelism; None without it.
        context: that of context parallelism; None without it.
    """

    tensor: dist.ProcessGroup | None = None
    context: dist.ProcessGroup | None = None

    @classmethod
    def of(cls, layer: Any) -> "Split":
        """As a layer of Megatron's has its input."""
        groups, config = layer.pg_collection, layer.config
        return cls(
            groups.tp if config.sequence_parallel and groups.tp.size() > 1 else None,
            groups.cp if config.context_parallel_size > 1 else None,
        )

    @property
    def ranks(self) -> int:
        """Over which a sequence is cut."""
        return self.tensor_ranks * self._context_ranks

    @property
    def tensor_ranks(self) -> int:
        """Of sequence parallelism."""
        return 1 if self.tensor is None else self.tensor.size()

    @property
    def _context_ranks(self) -> int:
        return 1 if self.context is None else self.context.size()

    def gathered(self, own: Tensor) -> Tensor:
        """``[L/cp, ...]`` of this rank's ``[L/cp/tp, ...]``: as its attention sees them."""
        if self.tensor is None:
            return own
        return gather_from_sequence_parallel_region(own, group=self.tensor)

    def whole(self, own: Tensor) -> Tensor:
        """``[L, ...]`` of this rank's ``[L/cp/tp, ...]``."""
        return self.whole_of_chunks(self.gathered(own))

    def whole_of_chunks(self, chunks: Tensor) -> Tensor:
        """``[L, ...]`` of this rank's two chunks ``[L/cp, ...]``."""
        if self.context is None:
            return chunks
        ranks = self.context.size()
        found = gather_from_sequence_parallel_region(chunks, group=self.context)
        pieces = found.view(2 * ranks, -1, *found.shape[1:])
        # Rank r has chunk r and chunk 2·cp − 1 − r.
        order = torch.empty(2 * ranks, dtype=torch.int64)
        order[[*range(ranks)]] = torch.arange(0, 2 * ranks, 2)
        order[[2 * ranks - 1 - rank for rank in range(ranks)]] = torch.arange(1, 2 * ranks, 2)
        return pieces[order.to(found.device)].flatten(0, 1)

    def chunks(self, whole: Tensor) -> Tensor:
        """This rank's two chunks ``[n/cp, ...]`` of ``[n, ...]``."""
        if self.context is None:
            return whole
        ranks, rank = self.context.size(), self.context.rank()
        pieces = whole.reshape(2 * ranks, -1, *whole.shape[1:])
        return torch.cat((pieces[rank], pieces[2 * ranks - 1 - rank]))

    def own(self, whole: Tensor) -> Tensor:
        """This rank's ``[n/cp/tp, ...]`` of ``[n, ...]``."""
        chunks = self.chunks(whole)
        if self.tensor is None:
            return chunks
        return chunks.chunk(self.tensor.size())[self.tensor.rank()]

    def places(self, positions: Tensor, length: int) -> Tensor:
        """Places in what this rank's attention sees, of places in its own ``[L/cp/tp]``."""
        if self.tensor is None:
            return positions
        return self.gathered(positions + self.tensor.rank() * length)
