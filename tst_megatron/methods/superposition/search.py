"""Bag sizes s and shares r of the steps in bags, as they are searched: axes, flags, text, words.

The curve through their losses is `tst_megatron.methods.superposition.fitted_u`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tst_megatron.errors import UserError
from tst_megatron.methods import search
from tst_megatron.methods.search import Axis, Fit, Limit, Words, split_values, whole_number
from tst_megatron.methods.superposition.axes import BASELINE, SHARE, SIZE, Pair
from tst_megatron.methods.superposition.fitted_u import fit_u
from tst_megatron.runs.noise import Noise
from tst_megatron.runs.outcomes import Choice, Outcome
from tst_megatron.statistics.array import Array

WORDS = Words(
    examples="""\
  tst-megatron sweep --recipe smollm2-270m-baseline --bag-sizes 4 8 16 --step-ratios 0.2 0.3 0.4 \\
      --tokenizer-model meta-llama/Meta-Llama-3-8B --data-path data/dclm --out runs/sweep
  tst-megatron sweep --recipe mine.yaml --bag-sizes 4 8 16 --step-ratios 0.2,0.3,0.4 --seeds 1,2 \\
      --budget-hours 500 --tokens-available 60e9 --data-path data/dclm
  tst-megatron sweep ... --halving               a cheaper search, in the same folder or in its own
  tst-megatron sweep --from-csv examples/sweep/paper-270m.csv --out runs/paper
""",
    title="Final held-out loss by bag size s and share r of the steps",
    noun="pair",
    curve="U",
    curve_takes="a U takes three bag sizes and three shares, or three of one with the other fixed",
    own="bags of its own",
    run="superposed",
    without="train without bags",
    row="a run has a bag_size of 1, or one above it with a step_ratio between 0 and 1",
    add_rows="add rows of bags above 1",
    less_text="a smaller bag size or step ratio",
    no_text="train for fewer steps, or with --tst-superpose output, which reads no more than an "
    "ordinary run",
)


@dataclass(frozen=True)
class BagLimit(Limit):
    """The text there is.

    Attributes:
        tokens: that may be read.
        positions: of a run; None where it is not known.
        reads_bags: whether a superposed position reads s tokens.
    """

    tokens: int
    positions: int | None
    reads_bags: bool = True

    def needed(self, choice: Choice) -> float | None:
        """Data tokens of a run: positions · (1 + r (s − 1))."""
        if self.positions is None:
            return None
        return self.positions * (_factor(choice) if self.reads_bags else 1)

    def allows(self, *places: Array) -> NDArray[np.bool_]:
        """Of bag sizes ``[n]`` and shares ``[n]``, which the text is enough for."""
        sizes, ratios = places
        if self.positions is None:
            return np.ones(sizes.shape, np.bool_)
        factor = 1 + ratios * (sizes - 1) if self.reads_bags else np.ones_like(sizes)
        return np.asarray(self.positions * factor <= self.tokens)


class BagSearch(search.Search):
    """s and r."""

    axes = (SIZE, SHARE)
    baseline = BASELINE
    # The paper's own choice for its dense models (arXiv 2605.06546, Table 1).
    usual = Pair(6, 0.3)
    sets = ("tst-bag-size", "tst-step-ratio", "tst-schedule")
    own_flags = (
        "tst-superpose",
        "tst-bag-boundary",
        "tst-bag-weights",
        "tst-objective",
        "tst-loss-implementation",
        "tst-logits-chunk-size",
    )
    words = WORDS

    def values(self, axis: Axis, words: Sequence[str]) -> tuple[float, ...]:
        """As the flag gives them: a bag of 1 is the baseline, which is there."""
        if axis == SHARE:
            return tuple(sorted({_step_ratio(word) for word in split_values(axis.flag, words)}))
        sizes = sorted({_bag_size(word) for word in split_values(axis.flag, words)} - {1})
        if not sizes:
            raise UserError(
                "--bag-sizes has only 1, which is the baseline: add a size above it, such as 4"
            )
        return tuple(sizes)

    def choice(self, values: Sequence[float]) -> Pair:
        """Of s and r."""
        size, ratio = values
        return Pair(int(size), ratio)

    def choice_of_row(self, row: Mapping[str, str]) -> Pair | None:
        """Bag size 1 is the baseline, whatever its share."""
        size, ratio = int(row[SIZE.name]), float(row[SHARE.name] or 0)
        if size < 1 or (size > 1 and not 0.0 < ratio < 1.0):
            return None
        return BASELINE if size == 1 else Pair(size, ratio)

    def flags(self, choice: Choice) -> tuple[str, ...]:
        """Bag size and share."""
        if choice.is_baseline:
            return ()
        return f"--tst-bag-size={SIZE.of(choice)}", f"--tst-step-ratio={SHARE.of(choice):g}"

    def check(self, choices: Sequence[Choice], num_steps: int) -> None:
        """Check that both phases of every cell have a step."""
        for ratio in sorted({SHARE.of(choice) for choice in choices if not choice.is_baseline}):
            superposed = round(ratio * num_steps)
            if not 0 < superposed < num_steps:
                phase = "superposition" if superposed == 0 else "recovery"
                raise UserError(
                    f"--step-ratios {ratio:g} leaves no step of {num_steps:,} to the {phase} "
                    "phase: take more steps or another ratio"
                )

    def fit(self, outcomes: Sequence[Outcome], noise: Noise | None) -> Fit | None:
        """The U."""
        return fit_u(outcomes, noise)

    def limit(self, tokens: int, baseline_tokens: int, flags: Mapping[str, Any]) -> BagLimit:
        """With output alone superposed, all runs read as much as the baseline."""
        return BagLimit(tokens, baseline_tokens, flags.get("tst-superpose") != "output")

    def limit_of_table(self, tokens: int, outcomes: Sequence[Outcome]) -> BagLimit | None:
        """For runs that may have read bags or, with output alone, single tokens."""
        baseline, superposed = (
            [o.data_tokens for o in outcomes if o.data_tokens and o.choice.is_baseline == is_it]
            for is_it in (True, False)
        )
        if baseline:
            return BagLimit(tokens, baseline[0], not superposed or max(superposed) > baseline[0])
        positions = next((p for outcome in outcomes if (p := _positions(outcome))), None)
        return None if positions is None else BagLimit(tokens, positions)

    def more_text(self, choice: Choice) -> float:
        """By r (s − 1)."""
        return SHARE.of(choice) * (SIZE.of(choice) - 1)


def _factor(choice: Choice) -> float:
    """Tokens that a position of the whole run reads."""
    return 1 + SHARE.of(choice) * (SIZE.of(choice) - 1)


def _positions(outcome: Outcome) -> int | None:
    """Positions that a run computed on, from what it read."""
    if outcome.data_tokens is None:
        return None
    return round(outcome.data_tokens / _factor(outcome.choice))


def _bag_size(word: str) -> int:
    size = whole_number(SIZE.flag, word)
    if size < 1:
        raise UserError(f"--bag-sizes {size} is below 1: use whole numbers of 2 or more")
    return size


def _step_ratio(word: str) -> float:
    try:
        ratio = float(word)
    except ValueError:
        raise UserError(f"--step-ratios {word} is no number: write for example 0.2 0.4") from None
    # Written so that NaN fails too.
    if not 0.0 < ratio < 1.0:
        raise UserError(
            f"--step-ratios {word} is not between 0 and 1: it is the share of the steps in bags, "
            "and the rest are the recovery"
        )
    return ratio
