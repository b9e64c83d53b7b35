"""Whether a model of transformers' writes with a cache what it writes without one."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def check_cache(model: Any, rows: Sequence[Tensor], filler: int) -> Tensor:
    """Token for token: each row alone and without a cache, or all in a batch filled up on the left,
    with a cache that grows, one that has its size, or beams that change places in it.

    Args:
        model: that writes.
        rows: prompts ``[n]``, of several lengths.
        filler: id that rows are filled up with.

    Returns:
        What it writes of all rows, ``[rows, 12]``.
    """
    longest = max(map(len, rows))
    filled = torch.stack(
        [torch.cat((row.new_full((longest - len(row),), filler), row)) for row in rows]
    )
    seen = torch.stack([torch.arange(longest) >= longest - len(row) for row in rows]).long()

    def written(ids: Tensor, mask: Tensor, **how: Any) -> Tensor:
        how |= {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
        found: Tensor = model.generate(ids, attention_mask=mask, **how)[:, ids.shape[1] :]
        return found

    for beams in (1, 3):
        how = {"num_beams": beams, "use_cache": False}
        alone = [written(row[None], torch.ones_like(row[None]), **how) for row in rows]
        assert torch.equal(written(filled, seen, num_beams=beams), torch.cat(alone))
    found = written(filled, seen)
    static = {"cache_implementation": "static", "disable_compile": True}
    assert torch.equal(written(filled, seen, **static), found)
    return found
