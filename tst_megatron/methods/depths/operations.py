"""Floating-point operations that routed blocks do not do.

The one idea: Megatron's own count of a model of one layer is the cost of that layer, so that the
figures go with whatever it counts; what a routed block costs is that count on its share of the
tokens, with the pairs that attention has among them.
"""

import argparse
import copy
from collections.abc import Mapping

from megatron.training.training import num_floating_point_operations

from tst_megatron.stock.layer_kinds import WITH_EXPERTS, kinds_of, pattern_of

_PASSES = 3  # Forward, and backward for weights and for inputs.
_FMA = 2


def of_routed(
    args: argparse.Namespace,
    samples: int,
    ordinary: float,
    tokens: Mapping[int, int],
    parameters: int,
) -> float:
    """Operations of a step, forward and backward.

    Args:
        args: Megatron's validated arguments.
        samples: sequences.
        ordinary: operations, as Megatron counts them.
        tokens: that a routed block works on of a sequence, by the block's number from 1.
        parameters: of a router and its predictor, each of which every token is multiplied with.

    Returns:
        Operations where a routed block works on so many.
    """
    positions = float(samples * args.seq_length)
    if not positions:
        return ordinary
    of_tokens = _count(args, positions, 0.0)
    of_pairs = _count(args, 0.0, 1.0)
    # What is not of single tokens is of pairs, fewer where attention ends with a document.
    pairs = max(0.0, ordinary - of_tokens) / of_pairs if of_pairs else 0.0
    total = ordinary
    for block, chosen in tokens.items():
        share = chosen / args.seq_length
        alone = _alone(args, block)
        total -= (1 - share) * _count(alone, positions, 0.0)
        total -= (1 - share**2) * _count(alone, 0.0, pairs)
        total += _PASSES * _FMA * parameters * positions
    return total


def _count(args: argparse.Namespace, tokens: float, pairs: float) -> float:
    return float(
        num_floating_point_operations(
            args, 0, seqlen_squared_sum_in_batch=pairs, total_real_tokens_in_batch=tokens
        )
    )


def _alone(args: argparse.Namespace, block: int) -> argparse.Namespace:
    """Arguments of a model that is one block of this one, without embedding and head."""
    alone = copy.copy(args)
    kind = kinds_of(args)[block - 1]
    alone.num_layers, alone.mtp_num_layers, alone.padded_vocab_size = 1, None, 0
    if pattern_of(args) is not None:
        alone.hybrid_layer_pattern = kind
    elif args.num_experts is not None:
        alone.moe_layer_freq = [int(kind in WITH_EXPERTS)]
    return alone
