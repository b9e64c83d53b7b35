"""How far one run's losses are from another's: step by step, or in windows, where noise shows."""

from itertools import pairwise

from trainer import Result

_WINDOW = 10


def relative(one: Result, other: Result) -> dict[int, float]:
    """Of the training loss of every step that both have, over the other's."""
    mine, theirs = _losses(one), _losses(other)
    return {
        step: abs(mine[step] - theirs[step]) / abs(theirs[step]) for step in mine.keys() & theirs
    }


def largest(one: Result, other: Result) -> float:
    """Of all steps that both have."""
    return max(relative(one, other).values())


def in_windows(one: Result, other: Result) -> dict[int, float]:
    """Of mean losses of ten steps, by the first step of each; no window holds two stages."""
    mine, theirs = _losses(one), _losses(other)
    starts = [line["step"] for line in other.ledger.steps if line["step"] in mine]
    edges = sorted({starts[0], *switches(other), starts[-1] + 1} & {*starts, starts[-1] + 1})
    windows = {}
    for first, end in pairwise(edges):
        for start in range(first, end, _WINDOW):
            window = range(start, min(start + _WINDOW, end))
            mean = [sum(losses[step] for step in window) / len(window) for losses in (mine, theirs)]
            windows[start] = abs(mean[0] - mean[1]) / abs(mean[1])
    return windows


def switches(run: Result) -> list[int]:
    """The first step of every stage but the first."""
    return [
        after["step"]
        for before, after in pairwise(run.ledger.steps)
        if after["stage"] != before["stage"]
    ]


def _losses(run: Result) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in run.ledger.steps}
