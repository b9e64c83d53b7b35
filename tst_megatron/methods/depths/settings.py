"""What a run routes: blocks, capacities, and how many tokens that is of a sequence."""

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tst_megatron.methods.depths import flags

CAPACITY, LEAST = "block_capacity", "least_block_capacity"
"""Facts of a stage: the mean share of the tokens in routed blocks, and a share that none has less
than."""

# Rows of a product in 8 or 4 bits are a multiple of it, as in megatron/core/fp8_utils.py
# (get_fp8_align_size) and fp4_utils.py.
_FP8_ROWS, _BLOCK_ROWS = 16, 32


@dataclass(frozen=True)
class Routing:
    """Of a run.

    Attributes:
        blocks: the routed ones, numbered from 1, with their capacities.
        sampling: how a token is let in without a look at later ones.
        choice: ``router`` or ``random``.
        coefficient: of the loss that trains that.
        decay: of the average that a threshold is.
        parts: equal parts of a sequence of which as many tokens are chosen each.
        rows: a rank's chosen tokens of a sequence are a multiple of it.
    """

    blocks: Mapping[int, float]
    sampling: str
    choice: str
    coefficient: float
    decay: float
    parts: int
    rows: int = 1

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Routing":
        """As the flags say.

        Args:
            args: checked flags, with Megatron's of model and layout.

        Raises:
            UserError: the model has no such blocks.
        """
        return cls(
            flags.routed(args),
            args.mod_sampling,
            args.mod_choice,
            args.mod_loss_coefficient,
            args.mod_threshold_decay,
            args.mod_parts or parts_of(args),
            rows_of(args),
        )

    @property
    def has_predictor(self) -> bool:
        """Whether routers have parameters beside the score's."""
        return self.sampling == "predictor" and self.choice == "router"

    def unit(self, ranks: int) -> int:
        """Chosen tokens of a sequence are a multiple of it.

        Args:
            ranks: over which a sequence is cut.
        """
        return math.lcm(self.parts, self.rows * ranks)

    def taken(self, capacity: float, length: int, ranks: int) -> tuple[int, int]:
        """How many tokens of its share of a sequence a rank chooses, and in how many parts.

        Args:
            capacity: share of the tokens.
            length: L, of the whole sequence.
            ranks: over which it is cut.
        """
        return self.tokens(capacity, length, ranks) // ranks, max(1, self.parts // ranks)

    def tokens(self, capacity: float, length: int, ranks: int) -> int:
        """How many tokens of a whole sequence are chosen: the multiple of the unit that is nearest
        to the share, one at least and all of them at most."""
        unit = self.unit(ranks)
        units = min(round(capacity * length / unit), length // unit)
        return min(max(1, units) * unit, length)


def rows_of(args: Any) -> int:
    """A rank's chosen tokens of a sequence are a multiple of it."""
    if getattr(args, "fp4", None) or (args.fp8 and args.fp8_recipe == "mxfp8"):
        return _BLOCK_ROWS
    return _FP8_ROWS if args.fp8 else 1


def ranks_of(args: argparse.Namespace) -> int:
    """Ranks over which a sequence is cut."""
    tensor = args.tensor_model_parallel_size if args.sequence_parallel else 1
    return int(tensor * args.context_parallel_size)


def parts_of(args: Any) -> int:
    """The fewest equal parts of a sequence of which every rank of the layout holds some whole:
    context parallelism gives a rank two chunks, and sequence parallelism cuts what it has."""
    tensor = args.tensor_model_parallel_size if args.sequence_parallel else 1
    context = args.context_parallel_size
    return int(tensor if context == 1 else context * math.lcm(2, tensor))
