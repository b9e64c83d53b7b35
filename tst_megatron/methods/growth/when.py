"""When to grow, as the papers have it, and for which models they may be asked.

The one idea: a law is told with what it was fitted to, and where it was not fitted it is not told.
The two findings there are contradict each other, so both stand side by side.
"""

import argparse
import math

FITTED = (410e6, 3e9)
"""Parameters beside embeddings of the models that the law was fitted to (arXiv 2405.15319, 4.2)."""
RATIO = 4
"""Layers of the grown model over the small one's, of all runs of that fit."""
LATE = 0.8
"""Share of the steps at which growth is best under a warm-up, a stable and a short decay phase, for
growth from no or one layer (arXiv 2511.04981, as its abstract and reviews have it)."""
WIDTH_GAINS_NOTHING = (
    "growth: in arXiv 2405.15319 no way to grow in width saved anything at 1.1B parameters: 0.7 % "
    "more FLOPs than from scratch for equal training loss with direct, 18 % with zero"
)
"""Its Fig. 3: speed-ups of -0.7 and -17.9 %."""
_OPERATIONS = 6


def tokens_before_growth(parameters: float, flops: float) -> float:
    """Tokens of the small model before it grows (arXiv 2405.15319, Eq. 2).

    Args:
        parameters: N, of the grown model, without embeddings.
        flops: C of the whole, counted as 6 N D.
    """
    return float(10 ** (0.88 * math.log10(parameters) + 163.27 / math.log10(flops) - 5.74))


def parameters_in_layers(args: argparse.Namespace) -> int | None:
    """Weights of the layers' matrices; None of models with experts or layers of other kinds."""
    if args.num_experts or args.hybrid_layer_pattern or args.multi_latent_attention:
        return None
    hidden = int(args.hidden_size)
    heads = int(args.num_attention_heads) * int(args.kv_channels)
    groups = args.num_query_groups if args.group_query_attention else args.num_attention_heads
    attention = hidden * (2 * heads + 2 * int(groups) * int(args.kv_channels))
    mlp = (3 if args.swiglu else 2) * hidden * int(args.ffn_hidden_size)
    return int(args.num_layers) * (attention + mlp)


def advice(args: argparse.Namespace, positions: int) -> list[str]:
    """When a model of these arguments should have grown, in sentences without their full stop.

    Args:
        args: Megatron's validated arguments, of the grown model.
        positions: of the whole run.
    """
    late = (
        f"growth: arXiv 2511.04981 finds one hop at about {LATE:.0%} of the steps best, in the "
        "stable phase of a schedule that decays at its end, from a model of one layer or none"
    )
    parameters = parameters_in_layers(args)
    if parameters is None or not positions:
        return [
            "growth: the law of arXiv 2405.15319 for its timing is of dense models with attention "
            "in every layer, and says nothing of this one",
            late,
        ]
    tokens = tokens_before_growth(parameters, _OPERATIONS * parameters * positions)
    share = tokens / positions
    if not FITTED[0] <= parameters <= FITTED[1]:
        asks = f"{share:,.0f} times the run's text" if share > 1 else f"{share:.0%} of the text"
        return [
            f"growth: the law of arXiv 2405.15319 for its timing was fitted to {FITTED[0]:.3g} to "
            f"{FITTED[1]:.3g} parameters beside embeddings, and says nothing of a model of "
            f"{parameters:.3g} (it would ask for {asks})",
            late,
        ]
    return [
        f"growth: by the law of arXiv 2405.15319 the small model, of a {RATIO}th of the layers, "
        f"sees {tokens:.3g} tokens before it grows, {share:.0%} of the run's (fitted to "
        f"{FITTED[0]:.3g} to {FITTED[1]:.3g} parameters, training losses of runs that were cut off "
        "before their decay)",
        f"{late}: the two contradict each other",
    ]
