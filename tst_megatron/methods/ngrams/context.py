"""The tokens that come before those of a rank.

The one idea: under context parallelism a rank has chunk r and chunk 2·cp − 1 − r of the 2·cp of a
sequence (``get_batch_on_this_cp_rank`` in megatron/core/utils.py), and an n-gram reaches into the
chunk before. The ranks send one another the ends of their chunks, a few ids each.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from tst_megatron.methods.ngrams.ngram_hashing import NOTHING


def with_context(tokens: Tensor, reach: int, group: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
    """Tokens in stretches that belong together, and what comes before each.

    One all-gather of ``[2, b, reach]`` int64, or of whole chunks that are shorter, over the group
    where it has more than one rank.

    Args:
        tokens: ``[b, n]``, int64, of this rank, in two chunks if the group has several.
        reach: tokens back, over several chunks where they are short.
        group: of context parallelism.

    Returns:
        ``[k, b, n/k]`` and ``[k, b, reach]``, `NOTHING` before the text; k is 1 or 2.
    """
    size, rank = group.size(), group.rank()
    nothing = tokens.new_full((tokens.shape[0], reach), NOTHING)
    if size == 1:
        return tokens.unsqueeze(0), nothing.unsqueeze(0)
    chunks = torch.stack(tokens.chunk(2, dim=1))
    length = min(reach, chunks.shape[-1])
    ends = chunks[..., chunks.shape[-1] - length :].contiguous()
    of_ranks = [torch.empty_like(ends) for _ in range(size)]
    dist.all_gather(of_ranks, ends, group=group)
    in_order = [of_ranks[one][0] for one in range(size)]
    in_order += [of_ranks[one][1] for one in reversed(range(size))]
    # Ends that are whole chunks follow one another as in the text; of longer ones one is enough.
    so_far = torch.cat((nothing, *in_order), dim=1)

    def before(chunk: int) -> Tensor:
        return so_far[:, chunk * length : chunk * length + reach]

    return chunks, torch.stack((before(rank), before(2 * size - 1 - rank)))
