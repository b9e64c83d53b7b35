"""Megatron's all-to-all, where a token goes to fewer experts than the router chooses.

The one idea: without dropping Megatron knows how many copies of tokens there are without asking the
GPU: the experts a token, times the tokens. Here they are counted, and the count comes to the host
with the others that it copies and waits for anyway, one place earlier. The all-gather counts by
itself.
"""

from megatron.core.transformer.moe.token_dispatcher import (
    MoEAlltoAllTokenDispatcher,
    MoETokenDispatcher,
)
from torch import Tensor


class CountedAlltoAll(MoEAlltoAllTokenDispatcher):
    """Megatron's, with copies counted."""

    def preprocess(self, routing_map: Tensor) -> Tensor:
        """Likewise.

        Args:
            routing_map: ``[tokens, E]``, bool: which experts a token goes to.

        Returns:
            Tokens for each of this rank's experts.
        """
        found: Tensor = super().preprocess(routing_map)
        # As Megatron has it where tokens are dropped.
        self.num_out_tokens = routing_map.sum()
        self._maybe_update_cuda_sync_point("before_permutation_1")
        return found


def count_in(dispatcher: MoETokenDispatcher) -> None:
    """Let a dispatcher take any number of experts a token, in place."""
    if isinstance(dispatcher, MoEAlltoAllTokenDispatcher):
        dispatcher.__class__ = CountedAlltoAll
