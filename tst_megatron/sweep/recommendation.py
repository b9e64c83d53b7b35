"""Which choice to take, how sure that is, and what it costs in text; and all that in sentences.

The one idea: the bottom of the fitted curve is recommended, not the luckiest cell; and only among
choices whose text is there, as these are paid for in text as well as chosen by loss. A sentence
claims no more than its interval does, and where there is no interval it says why.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tst_megatron.methods.search import Fit, Limit, Optimum, Search, has_ends
from tst_megatron.runs.noise import Noise, Parted, means_of, noise_between_seeds, parted
from tst_megatron.runs.outcomes import Choice, Outcome
from tst_megatron.statistics.interval import Interval

_MOST_LISTED = 8


@dataclass(frozen=True)
class Recommendation:
    """What a sweep comes to.

    Attributes:
        choice: what to take; the baseline where nothing gains, None where no text is enough.
        optimum: the bottom of the fitted curve, where there is one.
        best: the cell of the lowest loss among those that fit the text.
        gain: over the baseline, of the optimum, or of the best cell where there is none.
        alike: cells that cannot be told from the best, the best among them.
        flat: whether these are all.
        too_much_text: cells that need more than there is.
        noise: of one run's loss, by which cells are told apart.
        fit: the curve.
        sentences: all that in words; the first is the headline.
    """

    choice: Choice | None
    optimum: Optimum | None
    best: Choice | None
    gain: Interval
    alike: tuple[Choice, ...]
    flat: bool
    too_much_text: tuple[Choice, ...]
    noise: Noise | None
    fit: Fit | None
    sentences: tuple[str, ...]


def recommend(
    search: Search,
    outcomes: Sequence[Outcome],
    limit: Limit | None = None,
    asked: Sequence[Choice] = (),
) -> Recommendation:
    """What to take.

    Args:
        search: of the method's settings.
        outcomes: of the whole runs of a sweep; at least one with the method is usable.
        limit: the text there is.
        asked: the choices of the whole grid, where it is known.
    """
    parts = parted(outcomes)
    seeds = noise_between_seeds(outcomes)
    fit = search.fit(outcomes, seeds)
    noise = seeds or (fit.scatter if fit else None)
    means = means_of(parts.runs)
    cells = [choice for choice in means if not choice.is_baseline]
    affordable = [c for c in cells if limit is None or limit.holds(c)]
    too_much = tuple(c for c in cells if c not in affordable)
    best = min(affordable, key=lambda c: means[c][0], default=None)
    optimum = None
    if fit is not None and best is not None:
        optimum = fit.optimum(None if limit is None else limit.allows)
    alike = () if best is None else _alike(best, affordable, means, noise)
    baseline = search.baseline
    gain = optimum.gain if optimum else _gain(best, baseline, affordable, means, noise)
    if best is not None and _gains_nothing(gain, means[best][0], means.get(baseline)):
        choice: Choice | None = baseline
    else:
        choice = fit.recommended(optimum, limit) if optimum and fit else best
    found = Recommendation(
        choice=choice,
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
    return replace(found, sentences=_in_words(search, found, parts, limit, asked))


def _alike(
    best: Choice,
    cells: Sequence[Choice],
    means: dict[Choice, tuple[float, int]],
    noise: Noise | None,
) -> tuple[Choice, ...]:
    lowest, runs = means[best]
    if noise is None:
        return (best,)
    return tuple(
        sorted(
            c for c in cells if c == best or means[c][0] - lowest <= noise.margin(means[c][1], runs)
        )
    )


def _gain(
    best: Choice | None,
    baseline: Choice,
    cells: Sequence[Choice],
    means: dict[Choice, tuple[float, int]],
    noise: Noise | None,
) -> Interval:
    """Of the best of the cells, without a curve."""
    if best is None or baseline not in means:
        return Interval()
    (loss, runs), (without, others) = means[best], means[baseline]
    gain = without - loss
    if noise is None:
        return Interval(gain)
    margin = noise.margin(runs, others, chosen_of=len(cells))
    return Interval(gain, gain - margin, gain + margin)


def _gains_nothing(gain: Interval, best: float, baseline: tuple[float, int] | None) -> bool:
    """Whether neither the curve nor a cell goes below the baseline."""
    if gain.value is None or baseline is None:
        return False
    return gain.value <= 0 and best >= baseline[0]


def _in_words(
    search: Search,
    found: Recommendation,
    parts: Parted,
    limit: Limit | None,
    asked: Sequence[Choice],
) -> tuple[str, ...]:
    """The headline and the notes."""
    return (
        _headline(search, found),
        *_cell_notes(search, found, parts),
        *_edge_notes(search, found, asked),
        *_noise_notes(search, found, parts.is_joined),
        *_limit_notes(found, limit),
    )


def _headline(search: Search, found: Recommendation) -> str:
    words = search.words
    gain = found.gain
    if found.choice is None:
        return f"No cell fits the text there is: {words.no_text}."
    if found.choice.is_baseline:
        cell = "cell that fits the text" if found.too_much_text else "cell"
        lowest = f"neither a {cell} nor the fitted {words.curve}" if found.optimum else f"no {cell}"
        if gain.high is not None and gain.high > 0:
            return (
                f"No gain is shown: {lowest} goes below the baseline. The gain is "
                f"{_gain_words(gain)}, so {words.without} at this length, or add --seeds."
            )
        return (
            f"No gain: {lowest} goes below the baseline. The gain is {_gain_words(gain)}, so "
            f"{words.without} at this length."
        )
    said = f"Take {_place_words(search, found.choice, found.optimum)}"
    if gain.value is None:
        return f"{said}; there is no baseline to compare it with."
    if gain.value <= 0 or (gain.low is not None and gain.low <= 0):
        of = f" by the fitted {words.curve}" if found.optimum else ""
        return f"{said}, though no gain over the baseline is shown: it is {_gain_words(gain)}{of}."
    return f"{said}: {_gain_words(gain)} below the baseline."


def _place_words(search: Search, choice: Choice, optimum: Optimum | None) -> str:
    return ", ".join(
        f"{axis.symbol} = {axis.of(choice):g}"
        + ("" if optimum is None else _ends_words(axis.interval(optimum)))
        for axis in search.axes
    )


def _gain_words(gain: Interval) -> str:
    if gain.low is None:
        return f"{gain.value:.4f} nats (with no interval)"
    return f"{gain.value:.4f} nats ({gain.low:.4f} to {gain.high:.4f})"


def _ends_words(interval: Interval) -> str:
    """An interval of a place in brackets; nothing where there is none."""
    low, high = interval.low, interval.high
    if low is not None and high is not None:
        return f" ({low:.3g} to {high:.3g})"
    if low is not None:
        return f" ({low:.3g} or more)"
    return "" if high is None else f" ({high:.3g} or less)"


def _cell_notes(search: Search, found: Recommendation, parts: Parted) -> list[str]:
    if found.best is None:
        return []
    means = means_of(parts.runs)
    notes = [f"The lowest cell is {found.best}, at {means[found.best][0]:.4f}."]
    others = [c for c in found.alike if c != found.best]
    if found.flat:
        said = "The grid is flat: no cell can be told from the lowest one"
        least = f", so take what needs the least text, {_least_text(search, found.alike)}"
        notes.append(f"{said}{'' if found.choice == search.baseline else least}.")
    elif others:
        notes.append(
            f"Not to be told from it: {_listed(others)}. Of them all, "
            f"{_least_text(search, found.alike)} needs the least text."
        )
    return notes


def _edge_notes(search: Search, found: Recommendation, asked: Sequence[Choice]) -> list[str]:
    """Where the bottom, or all of its interval, has nothing beyond."""
    fit, optimum = found.fit, found.optimum
    if fit is None or optimum is None or found.choice == search.baseline:
        return []
    notes = []
    if optimum.edges:
        is_whole = all(
            not asked or ends == (min(map(axis.of, asked)), max(map(axis.of, asked)))
            for axis, ends in zip(search.axes, fit.ends, strict=True)
        )
        more = "extend the grid there" if is_whole else "run more of the grid whole"
        notes.append(
            f"The bottom lies at {' and '.join(optimum.edges)} of the cells that were run whole: "
            f"the best may lie beyond, so {more}."
        )
    if optimum.loss.low is not None:
        notes += [
            f"The interval of {axis.symbol} is all that was run: the losses do not tell "
            f"{axis.symbol}."
            for axis, (low, high) in zip(search.axes, fit.ends, strict=True)
            if low < high and not has_ends(axis.interval(optimum))
        ]
    return notes


def _noise_notes(search: Search, found: Recommendation, is_joined: bool) -> list[str]:
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
            "There are too few cells for a fit, so the lowest one stands for the bottom: "
            f"{search.words.curve_takes}."
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
    needed = None if found.choice is None else limit.needed(found.choice)
    if needed is not None:
        notes.append(f"It reads {needed:,.0f} tokens of the {limit.tokens:,} there are.")
    return notes


def _listed(choices: Sequence[Choice]) -> str:
    if len(choices) > _MOST_LISTED:
        return f"{len(choices)} cells"
    return "; ".join(map(str, choices))


def _least_text(search: Search, choices: Sequence[Choice]) -> Choice:
    return min(choices, key=search.more_text)
