"""Losses from the rank that has them to the rank that writes the ledger.

The one idea: the last pipeline stage has the losses and rank 0 has the ledger, so where they are
two the losses go through the job's key-value store: a few hundred bytes a logged step, no
collective, and the rank that sends never waits.
"""

import argparse
import json
from itertools import count

from torch.distributed import PrefixStore, distributed_c10d

_PREFIX = "tst-megatron-ledger"


class LossRelay:
    """Sends from the last rank to rank 0; both call `pass_on` equally often, in the same order.

    Args:
        args: Megatron's validated arguments.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self._sends = args.rank == args.world_size - 1
        self._receives = args.rank == 0
        self._needed = args.pipeline_model_parallel_size > 1
        self._numbers = count()

    def pass_on(self, values: dict[str, float]) -> dict[str, float] | None:
        """This rank's values, or on rank 0 those of the last rank; None on all other ranks.

        Args:
            values: by name; what rank 0 gives is left out where the last rank has the losses.
        """
        if not self._needed:
            return values if self._receives else None
        if not (self._sends or self._receives):
            return None
        store = PrefixStore(_PREFIX, distributed_c10d._get_default_store())
        key = str(next(self._numbers))
        if self._sends:
            store.set(key, json.dumps(values))
            return None
        received: dict[str, float] = json.loads(store.get(key))
        store.delete_key(key)
        return received
