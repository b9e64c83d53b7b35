"""Which s and r to take, how sure that is, and what it costs in text, in plain sentences.

The one idea: the bottom of the U is recommended, not the luckiest cell; and only among pairs whose
text is there, since s and r are paid for in text as well as chosen by loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, log

import numpy as np
from numpy.typing import NDArray

from tst_megatron.comparison.result import Interval
from tst_megatron.sweep.fit import Allowed, Array, Fit, Optimum, fit_u
from tst_megatron.sweep.grid import BASELINE, Config
from tst_megatron.sweep.noise import (
    Noise,
    means_of,
    noise_between_seeds,
    parted,
)
from tst_megatron.sweep.results import Result

_MOST_LISTED = 8


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
    notes = (
        *_cell_notes(found, means),
        *_edge_notes(found, asked),
        *_noise_notes(found, parts.is_joined),
        *_limit_notes(found, limit),
    )
    return replace(found, sentences=(_headline(found), *notes))


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
    if _has_ends(optimum.bag_size) and all(map(optimum.bag_size.holds, sizes)):
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


def _headline(found: Recommendation) -> str:
    gain = found.gain
    if found.config is None:
        return (
            "No cell fits the text there is: train for fewer steps, or with --tst-superpose "
            "output, which reads no more than an ordinary run."
        )
    if found.config.is_baseline:
        lowest = "neither a cell nor the fitted U" if found.optimum else "no cell"
        if gain.high is not None and gain.high > 0:
            return (
                f"No gain is shown: {lowest} goes below the baseline, but the interval of the gain "
                f"does ({_gain_words(gain)}), so train without bags at this length, or add --seeds."
            )
        return (
            f"No gain: {lowest} goes below the baseline ({_gain_words(gain)}), so train without "
            "bags at this length."
        )
    size, ratio = f"s = {found.config.bag_size}", f"r = {found.config.step_ratio:g}"
    if found.optimum is not None:
        size += _ends_words(found.optimum.bag_size, 1)
        ratio += _ends_words(found.optimum.step_ratio, 2)
    said = f"Take {size}, {ratio}"
    if gain.value is None:
        return f"{said}; there is no baseline to compare it with."
    if gain.value <= 0 or (gain.low is not None and gain.low <= 0):
        of = " by the fitted U" if found.optimum else ""
        return f"{said}, though no gain over the baseline is shown: it is {_gain_words(gain)}{of}."
    return f"{said}: {_gain_words(gain)} below the baseline."


def _gain_words(gain: Interval) -> str:
    if gain.low is None:
        return f"{gain.value:.4f} nats, with no interval,"
    return f"{gain.value:.4f} nats ({gain.low:.4f} to {gain.high:.4f})"


def _has_ends(interval: Interval) -> bool:
    return interval.low is not None or interval.high is not None


def _ends_words(interval: Interval, digits: int) -> str:
    """An interval of a place in brackets; nothing where there is none."""
    low, high = interval.low, interval.high
    if low is not None and high is not None:
        return f" ({low:.{digits}f} to {high:.{digits}f})"
    if low is not None:
        return f" ({low:.{digits}f} or more)"
    return "" if high is None else f" ({high:.{digits}f} or less)"


def _cell_notes(found: Recommendation, means: dict[Config, tuple[float, int]]) -> list[str]:
    if found.best is None:
        return []
    notes = [f"The lowest cell is {found.best}, at {means[found.best][0]:.4f}."]
    others = [c for c in found.alike if c != found.best]
    if found.flat:
        said = "The grid is flat: no cell can be told from the lowest one"
        least = f", so take what needs the least text, {_least_text(found.alike)}"
        notes.append(f"{said}{'' if found.config == BASELINE else least}.")
    elif others:
        notes.append(
            f"Not to be told from it: {_listed(others)}. Of them all, "
            f"{_least_text(found.alike)} needs the least text."
        )
    return notes


def _edge_notes(found: Recommendation, asked: Sequence[Config]) -> list[str]:
    """Where the bottom, or all of its interval, has nothing beyond."""
    fit, optimum = found.fit, found.optimum
    if fit is None or optimum is None or found.config == BASELINE:
        return []
    notes = []
    if optimum.edges:
        sizes = {c.bag_size for c in asked} or set(fit.sizes)
        ratios = {c.step_ratio for c in asked} or set(fit.ratios)
        ends = (*fit.sizes, *fit.ratios)
        is_whole = ends == (min(sizes), max(sizes), min(ratios), max(ratios))
        more = "extend the grid there" if is_whole else "run more of the grid whole"
        notes.append(
            f"The bottom lies at {' and '.join(optimum.edges)} of the cells that were run whole: "
            f"the best may lie beyond, so {more}."
        )
    if optimum.loss.low is not None:
        axes = (("s", fit.sizes, optimum.bag_size), ("r", fit.ratios, optimum.step_ratio))
        notes += [
            f"The interval of {name} is all that was run: the losses do not tell {name}."
            for name, (low, high), interval in axes
            if low < high and not _has_ends(interval)
        ]
    return notes


def _noise_notes(found: Recommendation, is_joined: bool) -> list[str]:
    notes = []
    if not is_joined:
        notes.append(
            "There are no intervals: some cells share no seed with others, even by way of a third, "
            "so that the seeds' differences look like the cells'; run the same seeds in all."
        )
    elif found.noise is None:
        notes.append(
            "There are no intervals: one seed and so few cells say nothing about noise; add "
            "--seeds."
        )
    elif found.best is not None:
        notes.append(
            f"Intervals are of 95 %; a run's loss is taken to scatter by {found.noise.sd:.4f} "
            f"nats, from {found.noise.source}."
        )
    if found.fit is None:
        notes.append(
            "There are too few cells for a fit, so the lowest one stands for the bottom: a U takes "
            "three bag sizes and three shares, or three of one with the other fixed."
        )
    return notes


def _limit_notes(found: Recommendation, limit: Limit | None) -> list[str]:
    if limit is None:
        return []
    notes = []
    if found.too_much_text:
        notes.append(
            f"Left out of the choice, as they need more than {limit.tokens:,} tokens: "
            f"{_listed(found.too_much_text)}."
        )
    needed = None if found.config is None else limit.needed(found.config)
    if needed is not None:
        notes.append(f"It reads {needed:,.0f} tokens of the {limit.tokens:,} there are.")
    return notes


def _listed(configs: Sequence[Config]) -> str:
    if len(configs) > _MOST_LISTED:
        return f"{len(configs)} cells"
    return "; ".join(map(str, configs))


def _least_text(configs: Sequence[Config]) -> Config:
    return min(configs, key=lambda c: c.step_ratio * (c.bag_size - 1))
