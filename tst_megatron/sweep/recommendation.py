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
    levelled,
    means_of,
    noise_between_seeds,
    noise_of_evaluation,
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


def recommend(results: Sequence[Result], limit: Limit | None = None) -> Recommendation:
    """What to take, from the whole runs of a sweep; at least one of them superposed and finite."""
    seeds = noise_between_seeds(results)
    known = seeds or noise_of_evaluation(results)
    fit = fit_u(results, known)
    noise = seeds or (fit.scatter if fit else None) or known
    means = means_of(levelled(results))
    cells = [config for config in means if not config.is_baseline]
    affordable = [c for c in cells if limit is None or limit.holds(c)]
    too_much = tuple(c for c in cells if c not in affordable)
    best = min(affordable, key=lambda c: means[c][0], default=None)
    optimum = None
    if fit is not None and best is not None:
        optimum = fit.optimum(None if limit is None else _allowed(limit))
    alike = () if best is None else _alike(best, affordable, means, noise)
    gain = optimum.gain if optimum else _gain(best, means, noise)
    config = _config(best, optimum, fit, gain, limit)
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
    return replace(found, sentences=(_headline(found), *_notes(found, means, limit)))


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
    best: Config | None, means: dict[Config, tuple[float, int]], noise: Noise | None
) -> Interval:
    """Of the best cell, without a U."""
    if best is None or BASELINE not in means:
        return Interval()
    (loss, runs), (baseline, others) = means[best], means[BASELINE]
    gain = baseline - loss
    if noise is None:
        return Interval(gain)
    margin = noise.margin(runs, others)
    return Interval(gain, gain - margin, gain + margin)


def _config(
    best: Config | None,
    optimum: Optimum | None,
    fit: Fit | None,
    gain: Interval,
    limit: Limit | None,
) -> Config | None:
    if gain.value is not None and gain.value <= 0:
        return BASELINE
    if optimum is None or fit is None:
        return best
    return _whole(optimum, fit, limit)


def _whole(optimum: Optimum, fit: Fit, limit: Limit | None) -> Config:
    """A whole bag size and a share of whole percents beside the optimum, within the text."""
    size, ratio = optimum.bag_size.value or 0.0, optimum.step_ratio.value or 0.0
    # To the tolerance of logarithms and of shares: 4 must not become 3 or 5.
    sizes = {floor(size + 1e-9), ceil(size - 1e-9)}
    low = optimum.bag_size.low
    if low is not None and low <= min(sizes):
        # The two cannot be told apart, and the smaller reads less text.
        sizes = {min(sizes)}
    percents = {floor(100 * ratio + 1e-9), ceil(100 * ratio - 1e-9)}
    near = [Config(s, p / 100) for s in sizes for p in percents if s > 1 and p > 0]
    # Rounded down, both need no more text than the optimum.
    within = [c for c in near if limit is None or limit.holds(c)] or [min(near)]

    def predicted(config: Config) -> tuple[float, float]:
        loss = fit.loss(np.array([float(config.bag_size)]), np.array([config.step_ratio]))
        return float(loss[0]), abs(log(config.bag_size / size))

    return min(within, key=predicted)


def _headline(found: Recommendation) -> str:
    if found.config is None:
        return (
            "No cell fits the text there is: train for fewer steps, or with --tst-superpose "
            "output, which reads no more than an ordinary run."
        )
    if found.config.is_baseline:
        return (
            "No gain: no superposed run ended below the baseline, so train without bags at this "
            "length."
        )
    gain = found.gain
    said = f"Take s = {found.config.bag_size}, r = {found.config.step_ratio:g}"
    if found.optimum is not None:
        size, ratio = found.optimum.bag_size, found.optimum.step_ratio
        if size.low is not None and ratio.low is not None:
            said = (
                f"Take s = {found.config.bag_size} ({size.low:.1f} to {size.high:.1f}), "
                f"r = {found.config.step_ratio:g} ({ratio.low:.2f} to {ratio.high:.2f})"
            )
    if gain.value is None:
        return f"{said}; there is no baseline to compare it with."
    if gain.low is None:
        return f"{said}: {gain.value:.4f} nats below the baseline, with no interval."
    between = f"{gain.value:.4f} nats ({gain.low:.4f} to {gain.high:.4f})"
    if gain.low <= 0:
        return f"{said}, though no gain over the baseline is shown: {between} below it."
    return f"{said}: {between} below the baseline."


def _notes(
    found: Recommendation, means: dict[Config, tuple[float, int]], limit: Limit | None
) -> list[str]:
    notes = []
    if found.best is not None:
        notes.append(f"The lowest cell is {found.best}, at {means[found.best][0]:.4f}.")
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
    if found.optimum is not None and found.optimum.edges and found.config != BASELINE:
        where = " and ".join(found.optimum.edges)
        notes.append(
            f"The bottom lies at {where} of what could be chosen: the best may lie beyond, so "
            "extend the grid there."
        )
    if found.noise is None:
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
        notes.append("There are too few cells for a fit.")
    if found.too_much_text and limit is not None:
        notes.append(
            f"Left out of the choice, as they need more than {limit.tokens:,} tokens: "
            f"{_listed(found.too_much_text)}."
        )
    if limit is not None and found.config is not None:
        needed = limit.needed(found.config)
        if needed is not None:
            notes.append(f"It reads {needed:,.0f} tokens of the {limit.tokens:,} there are.")
    return notes


def _listed(configs: Sequence[Config]) -> str:
    if len(configs) > _MOST_LISTED:
        return f"{len(configs)} cells"
    return "; ".join(map(str, configs))


def _least_text(configs: Sequence[Config]) -> Config:
    return min(configs, key=lambda c: c.step_ratio * (c.bag_size - 1))
