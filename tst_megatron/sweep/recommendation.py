"""Which s and r to take, how sure that is, and what it costs in text.

The one idea: the bottom of the U is recommended, not the luckiest cell; and only among pairs whose
text is there, since s and r are paid for in text as well as chosen by loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, log

import numpy as np
from numpy.typing import NDArray

from tst_megatron.statistics.interval import Interval
from tst_megatron.sweep.fit import Allowed, Array, Fit, Optimum, fit_u
from tst_megatron.sweep.grid import BASELINE, Config
from tst_megatron.sweep.noise import Noise, means_of, noise_between_seeds, parted
from tst_megatron.sweep.results import Result
from tst_megatron.sweep.sentences import has_ends, in_words


@dataclass(frozen=True)
class Limit:
    """The text there is.

    Attributes:
        tokens: that may be read.
        positions: of a run; None where it is not known.
        reads_bags: whether a superposed position reads s tokens.
    """

    tokens: int
    positions: int | None
    reads_bags: bool = True

    def needed(self, config: Config) -> float | None:
        """Data tokens of a run: positions · (1 + r (s − 1))."""
        if self.positions is None:
            return None
        factor = 1 + config.step_ratio * (config.bag_size - 1) if self.reads_bags else 1
        return self.positions * factor

    def holds(self, config: Config) -> bool:
        """Whether the text is enough; what is not known is."""
        needed = self.needed(config)
        return needed is None or needed <= self.tokens


@dataclass(frozen=True)
class Recommendation:
    """What a sweep comes to.

    Attributes:
        config: what to take; the baseline where nothing gains, None where no text is enough.
        optimum: the bottom of the U, where there is a U.
        best: the cell of the lowest loss among those that fit the text.
        gain: over the baseline, of the optimum, or of the best cell where there is no U.
        alike: cells that cannot be told from the best, the best among them.
        flat: whether these are all.
        too_much_text: cells that need more than there is.
        noise: of one run's loss, by which cells are told apart.
        fit: the U.
        sentences: all that in words; the first is the headline.
    """

    config: Config | None
    optimum: Optimum | None
    best: Config | None
    gain: Interval
    alike: tuple[Config, ...]
    flat: bool
    too_much_text: tuple[Config, ...]
    noise: Noise | None
    fit: Fit | None
    sentences: tuple[str, ...]


def recommend(
    results: Sequence[Result], limit: Limit | None = None, asked: Sequence[Config] = ()
) -> Recommendation:
    """What to take.

    Args:
        results: the whole runs of a sweep; at least one superposed one of them is usable.
        limit: the text there is.
        asked: the pairs of the whole grid, where it is known.
    """
    parts = parted(results)
    seeds = noise_between_seeds(results)
    fit = fit_u(results, seeds)
    noise = seeds or (fit.scatter if fit else None)
    means = means_of(parts.runs)
    cells = [config for config in means if not config.is_baseline]
    affordable = [c for c in cells if limit is None or limit.holds(c)]
    too_much = tuple(c for c in cells if c not in affordable)
    best = min(affordable, key=lambda c: means[c][0], default=None)
    optimum = None
    if fit is not None and best is not None:
        optimum = fit.optimum(None if limit is None else _allowed(limit))
    alike = () if best is None else _alike(best, affordable, means, noise)
    gain = optimum.gain if optimum else _gain(best, affordable, means, noise)
    if best is not None and _gains_nothing(best, gain, means):
        config: Config | None = BASELINE
    else:
        config = _whole(optimum, fit, limit) if optimum and fit else best
    found = Recommendation(
        config=config,
        optimum=optimum,
        best=best,
        gain=gain,
        alike=alike,
        flat=len(cells) > 1 and set(alike) == set(cells),
        too_much_text=too_much,
        noise=noise,
        fit=fit,
        sentences=(),
    )
    return replace(found, sentences=in_words(found, parts, limit, asked))


def _allowed(limit: Limit) -> Allowed:
    def allowed(sizes: Array, ratios: Array) -> NDArray[np.bool_]:
        if limit.positions is None:
            return np.ones(sizes.shape, np.bool_)
        factor = 1 + ratios * (sizes - 1) if limit.reads_bags else np.ones_like(sizes)
        return np.asarray(limit.positions * factor <= limit.tokens)

    return allowed


def _alike(
    best: Config,
    cells: Sequence[Config],
    means: dict[Config, tuple[float, int]],
    noise: Noise | None,
) -> tuple[Config, ...]:
    lowest, runs = means[best]
    if noise is None:
        return (best,)
    return tuple(
        sorted(
            c for c in cells if c == best or means[c][0] - lowest <= noise.margin(means[c][1], runs)
        )
    )


def _gain(
    best: Config | None,
    cells: Sequence[Config],
    means: dict[Config, tuple[float, int]],
    noise: Noise | None,
) -> Interval:
    """Of the best of the cells, without a U."""
    if best is None or BASELINE not in means:
        return Interval()
    (loss, runs), (baseline, others) = means[best], means[BASELINE]
    gain = baseline - loss
    if noise is None:
        return Interval(gain)
    margin = noise.margin(runs, others, chosen_of=len(cells))
    return Interval(gain, gain - margin, gain + margin)


def _gains_nothing(best: Config, gain: Interval, means: dict[Config, tuple[float, int]]) -> bool:
    """Whether neither the U nor a cell goes below the baseline."""
    return gain.value is not None and gain.value <= 0 and means[best][0] >= means[BASELINE][0]


def _whole(optimum: Optimum, fit: Fit, limit: Limit | None) -> Config:
    """A whole bag size and a share of whole percents beside the optimum, within the text."""
    size, ratio = optimum.bag_size.value or 0.0, optimum.step_ratio.value or 0.0
    # To the tolerance of logarithms and of shares: 4 must not become 3 or 5.
    sizes = {floor(size + 1e-9), ceil(size - 1e-9)}
    if has_ends(optimum.bag_size) and all(map(optimum.bag_size.holds, sizes)):
        # The two cannot be told apart, and the smaller reads less text.
        sizes = {min(sizes)}
    percents = {floor(100 * ratio + 1e-9), ceil(100 * ratio - 1e-9)}
    low, high = fit.ratios
    # A share of the grid may be no whole percent, and beyond the grid nothing was run.
    shares = {min(max(p / 100, low), high) for p in percents}
    near = [Config(size, share) for size in sizes for share in shares]
    # Rounded down, both need no more text than the optimum.
    within = [c for c in near if limit is None or limit.holds(c)] or [min(near)]

    def predicted(config: Config) -> tuple[float, float]:
        loss = fit.loss(np.array([float(config.bag_size)]), np.array([config.step_ratio]))
        return float(loss[0]), abs(log(config.bag_size / size))

    return min(within, key=predicted)
