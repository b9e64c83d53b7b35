"""A recommendation in plain sentences: what to take, how sure that is, and why where it is not.

The one idea: a sentence claims no more than its interval does, and where there is no interval it
says why.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tst_megatron.statistics.interval import Interval
from tst_megatron.sweep.grid import BASELINE, Config
from tst_megatron.sweep.noise import Parted, means_of

if TYPE_CHECKING:
    from tst_megatron.sweep.recommendation import Limit, Recommendation

_MOST_LISTED = 8


def in_words(
    found: "Recommendation", parts: Parted, limit: "Limit | None", asked: Sequence[Config]
) -> tuple[str, ...]:
    """The headline and the notes.

    Args:
        found: all but its sentences.
        parts: of the runs it is from.
        limit: the text there is.
        asked: the pairs of the whole grid, where it is known.
    """
    return (
        _headline(found),
        *_cell_notes(found, parts),
        *_edge_notes(found, asked),
        *_noise_notes(found, parts.is_joined),
        *_limit_notes(found, limit),
    )


def _headline(found: "Recommendation") -> str:
    gain = found.gain
    if found.config is None:
        return (
            "No cell fits the text there is: train for fewer steps, or with --tst-superpose "
            "output, which reads no more than an ordinary run."
        )
    if found.config.is_baseline:
        cell = "cell that fits the text" if found.too_much_text else "cell"
        lowest = f"neither a {cell} nor the fitted U" if found.optimum else f"no {cell}"
        if gain.high is not None and gain.high > 0:
            return (
                f"No gain is shown: {lowest} goes below the baseline. The gain is "
                f"{_gain_words(gain)}, so train without bags at this length, or add --seeds."
            )
        return (
            f"No gain: {lowest} goes below the baseline. The gain is {_gain_words(gain)}, so train "
            "without bags at this length."
        )
    size, ratio = f"s = {found.config.bag_size}", f"r = {found.config.step_ratio:g}"
    if found.optimum is not None:
        size += _ends_words(found.optimum.bag_size)
        ratio += _ends_words(found.optimum.step_ratio)
    said = f"Take {size}, {ratio}"
    if gain.value is None:
        return f"{said}; there is no baseline to compare it with."
    if gain.value <= 0 or (gain.low is not None and gain.low <= 0):
        of = " by the fitted U" if found.optimum else ""
        return f"{said}, though no gain over the baseline is shown: it is {_gain_words(gain)}{of}."
    return f"{said}: {_gain_words(gain)} below the baseline."


def _gain_words(gain: Interval) -> str:
    if gain.low is None:
        return f"{gain.value:.4f} nats (with no interval)"
    return f"{gain.value:.4f} nats ({gain.low:.4f} to {gain.high:.4f})"


def has_ends(interval: Interval) -> bool:
    """Whether the interval of a place says anything."""
    return interval.low is not None or interval.high is not None


def _ends_words(interval: Interval) -> str:
    """An interval of a place in brackets; nothing where there is none."""
    low, high = interval.low, interval.high
    if low is not None and high is not None:
        return f" ({low:.3g} to {high:.3g})"
    if low is not None:
        return f" ({low:.3g} or more)"
    return "" if high is None else f" ({high:.3g} or less)"


def _cell_notes(found: "Recommendation", parts: Parted) -> list[str]:
    if found.best is None:
        return []
    means = means_of(parts.runs)
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


def _edge_notes(found: "Recommendation", asked: Sequence[Config]) -> list[str]:
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
            if low < high and not has_ends(interval)
        ]
    return notes


def _noise_notes(found: "Recommendation", is_joined: bool) -> list[str]:
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


def _limit_notes(found: "Recommendation", limit: "Limit | None") -> list[str]:
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
