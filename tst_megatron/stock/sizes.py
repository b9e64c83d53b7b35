"""How wide a model is, from Megatron's arguments.

The one idea: what Megatron's validation works out of other flags is worked out here as well, so
that arguments which it has not seen yet, such as a chain's, say the same.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """Widths of a dense model, under the names of Megatron's arguments.

    Attributes:
        hidden_size: of the residual stream.
        ffn_hidden_size: units of an MLP.
        num_attention_heads: of queries.
        num_query_groups: of keys and values; as many as heads where no flag says otherwise.
        kv_channels: of a head.
    """

    hidden_size: int
    ffn_hidden_size: int
    num_attention_heads: int
    num_query_groups: int
    kv_channels: int

    @property
    def heads_per_group(self) -> int:
        """Heads that share keys and values."""
        return self.num_attention_heads // self.num_query_groups


def sizes_of(args: Any) -> Sizes:
    """A model's, of validated arguments or not.

    Args:
        args: Megatron's, a run's or a checkpoint's.
    """
    hidden, heads = int(args.hidden_size), int(args.num_attention_heads)
    is_grouped = getattr(args, "group_query_attention", False)
    return Sizes(
        hidden,
        ffn_size(args),
        heads,
        int(args.num_query_groups) if is_grouped else heads,
        int(getattr(args, "kv_channels", None) or hidden // heads),
    )


def ffn_size(args: Any) -> int:
    """As Megatron's validation sets it (``validate_args`` in megatron/training/arguments.py)."""
    if args.ffn_hidden_size:
        return int(args.ffn_hidden_size)
    hidden = int(args.hidden_size)
    return int(4 * hidden * 2 / 3 / 64) * 64 if args.swiglu else 4 * hidden
