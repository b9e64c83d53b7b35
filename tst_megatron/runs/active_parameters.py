"""Whether a header's count of active parameters can be: operations at a position say how many work.

The one idea: every active parameter but those of norms, biases and routers multiplies and adds once
a position going forward and twice going back, 6 operations that Megatron counts (arXiv 2001.08361,
2.1; megatron/training/training.py, num_floating_point_operations). More parameters than operations
allow for were counted wrongly, as all experts of a mixture once were.
"""

from collections.abc import Mapping
from typing import Any

from tst_megatron.runs.ledger import Ledger

_OPERATIONS = 6
# Vectors of the hidden size in a layer, of whatever kind it is: norms, biases, convolutions.
_VECTORS = 32
# For what Megatron's formula leaves out of a kind of layer.
_TOLERANCE = 0.1
# To the digits that a sum in floating point keeps.
_STEADY = 1e-3


def impossible_count(ledger: Ledger) -> str | None:
    """What is wrong with the header's count of active parameters, a sentence.

    Returns:
        None where nothing is known to be. The size of the model and its operations must be told,
        and be as many at every position: where attention ends with a document, or a method adds to
        them, they are not those of all active parameters.
    """
    header = ledger.header
    active = (header.get("parameters") or {}).get("active")
    per_position = _operations_a_position(ledger)
    beside = _without_operations(header.get("flags") or {})
    if not isinstance(active, int | float) or per_position is None or beside is None:
        return None
    most = per_position / _OPERATIONS
    if active <= most * (1 + _TOLERANCE) + beside:
        return None
    return (
        f"Its header has {active:,.0f} active parameters, and its {per_position:,.0f} operations a "
        f"position are of {most:,.0f} at most: its counts of parameters are not used."
    )


def _operations_a_position(ledger: Ledger) -> float | None:
    """None where it is not told, or not the same all through."""
    rates = [
        line["flops"] / line["positions"]
        for line in (*ledger.steps, *ledger.validations)
        if line.get("flops") and line.get("positions")
    ]
    if not rates or max(rates) - min(rates) > _STEADY * max(rates):
        return None
    return float(max(rates))


def _without_operations(flags: Mapping[str, Any]) -> float | None:
    """Active parameters that Megatron counts no operations of, at most; None if not known."""
    layers, hidden = flags.get("num_layers"), flags.get("hidden_size")
    if flags.get("hybrid_layer_pattern") and flags.get("mtp_num_layers"):
        return None  # Of these heads Megatron counts the logits alone.
    if not isinstance(layers, int) or not isinstance(hidden, int):
        return None
    ffn, routed, experts = (
        flags.get(name) or 0 for name in ("ffn_hidden_size", "moe_router_topk", "num_experts")
    )
    biases = 2 * ffn * max(1, routed if experts else 0)
    return float(
        (layers + (flags.get("mtp_num_layers") or 0))
        * (_VECTORS * hidden + biases + experts * (hidden + 1))
    )
