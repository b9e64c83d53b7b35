"""The pictures of a law: what its runs ended with, and what it says between and beyond them.

The one idea: measured runs are dots, the law is lines, and nothing is drawn where there is neither
a run nor less than ten times the largest run's compute.
"""

from collections.abc import Iterator

import numpy as np

from tst_megatron.analysis.scaling.answers import CONFIDENCE
from tst_megatron.analysis.scaling.checks import FARTHEST
from tst_megatron.analysis.scaling.law_file import LawRecord, LawRun
from tst_megatron.analysis.scaling.point import BASELINE
from tst_megatron.report import formats
from tst_megatron.report.chart import Band, Chart, Dot, Line
from tst_megatron.statistics.array import Array

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5f6368")
_POINTS = 120
_BUDGETS = 5
# Of an isoFLOP line around its lowest size, as factors.
_WIDE = 16.0
_POSITIONS = "positions trained on (D)"


def charts(record: LawRecord) -> tuple[Chart, ...]:
    """Loss over length by size, lines of equal compute, residuals, and the multiplier."""
    found = [*_by_length(record), _lines_of_equal_compute(record), _residuals(record)]
    if record.law.multipliers:
        found.append(_multipliers(record))
    return tuple(found)


def _sizes(record: LawRecord) -> list[float]:
    return sorted({run.n for run in record.runs})


def _colour(place: int) -> str:
    return _COLOURS[place % len(_COLOURS)]


def _own(setting: str) -> str | None:
    return None if setting == BASELINE else setting


def _by_length(record: LawRecord) -> Iterator[Chart]:
    """A chart a setting; each has the sizes' colours."""
    lengths = record.column("d")
    losses = record.column("loss")
    room = 0.05 * (losses.max() - losses.min())
    for number, setting in enumerate(record.names):
        lines, dots = [], []
        for place, n in enumerate(_sizes(record)):
            runs = [run for run in record.runs if run.n == n and run.setting == setting]
            if not runs:
                continue
            d = np.geomspace(lengths.min() / 1.5, _farthest(record, n), _POINTS)
            name = f"N {formats.count(n)}"
            lines.append(Line(name, d, record.law.loss(n, d, _own(setting)), _colour(place)))
            dots += [_dot(run, name, _colour(place)) for run in runs]
        yield Chart(
            name=f"loss-by-length-{number}",
            title=f"Loss over length, by size: {setting}",
            alt=f"Final held-out loss over positions trained on, a line a size, of {setting}.",
            caption="Diamonds are whole runs, lines the law. A line ends where ten times the "
            "largest run's compute does.",
            x_label=_POSITIONS,
            y_label=f"held-out loss, {record.unit}",
            lines=tuple(lines),
            dots=tuple(dots),
            x_log=True,
            y_range=(float(losses.min() - 4 * room), float(losses.max() + room)),
        )


def _farthest(record: LawRecord, n: float) -> float:
    """The length to which a size's line is drawn."""
    compute = FARTHEST * (record.column("n") * record.column("d")).max()
    return float(min(compute / n, FARTHEST * record.column("d").max()))


def _dot(run: LawRun, name: str, colour: str, y: float | None = None) -> Dot:
    return Dot(name, run.d, run.loss if y is None else y, None, None, colour, listed=False)


def _lines_of_equal_compute(record: LawRecord) -> Chart:
    """Of the baseline, and where their lowest points are with each setting."""
    compute = record.law.flops_per_position * record.column("n") * record.column("d")
    budgets = np.geomspace(compute.min(), compute.max(), _BUDGETS)
    lines, dots = [], []
    for place, budget in enumerate(budgets):
        best = record.law.optimum(budget)
        if not np.isfinite(best.n):
            continue
        n = np.geomspace(float(best.n) / _WIDE, float(best.n) * _WIDE, _POINTS)
        d = budget / (record.law.flops_per_position * n)
        lines.append(Line(f"C {budget:.2g}", n, record.law.loss(n, d), _colour(place)))
        for setting in record.names:
            at = record.law.optimum(budget, _own(setting))
            name = f"best, {setting}"
            colour = _COLOURS[-1] if setting == BASELINE else "#1f2328"
            first = place == 0
            dots.append(Dot(name, float(at.n), float(at.loss), None, None, colour, first))
    lowest = [*(float(line.ys.min()) for line in lines), *(dot.y for dot in dots)]
    highest = [float(np.median(line.ys)) for line in lines]
    return Chart(
        name="isoflop",
        title="Lines of equal compute (C, in FLOPs), by the law",
        alt="Loss over parameters at equal compute, with the size of least loss.",
        caption="Lines are the baseline's; a diamond is the best size for its budget, with each "
        "setting. Budgets go from the smallest run's to the largest run's.",
        x_label="parameters (N)",
        y_label=f"held-out loss, {record.unit}",
        lines=tuple(lines),
        dots=tuple(dots),
        x_log=True,
        y_range=(min(lowest) - 0.1, max(highest) + 0.2),
    )


def _residuals(record: LawRecord) -> Chart:
    dots = []
    sizes = _sizes(record)
    for run in record.runs:
        fitted = float(record.law.loss(run.n, run.d, _own(run.setting)))
        place = sizes.index(run.n)
        at = 100 * float(np.log(run.loss / fitted))
        dots.append(_dot(run, f"N {formats.count(run.n)}", _colour(place), at))
    seen: set[str] = set()
    listed = [_listed(dot, seen) for dot in dots]
    ends = record.column("d").min() / 1.5, record.column("d").max() * 1.5
    zero = Line("the law", np.array(ends), np.zeros(2), _COLOURS[-1], width=1.0, dash="dash")
    return Chart(
        name="residuals",
        title="What the law leaves over",
        alt="Residuals of the logarithm of the loss over positions, by size.",
        caption="A run's loss over the law's, in per cent. Runs of one seed lie high or low "
        "together; what lies high or low by size or length is the law's.",
        x_label=_POSITIONS,
        y_label="loss over the law's, %",
        lines=(zero,),
        dots=tuple(listed),
        x_log=True,
    )


def _listed(dot: Dot, seen: set[str]) -> Dot:
    new = dot.name not in seen
    seen.add(dot.name)
    return Dot(dot.name, dot.x, dot.y, dot.low, dot.high, dot.colour, new)


def _multipliers(record: LawRecord) -> Chart:
    """m by the law, and by each cell of a size and a length against the baseline's law."""
    lines, bands, dots = [], [], []
    for number, setting in enumerate(record.law.multipliers):
        for place, n in enumerate(_sizes(record)):
            runs = [run for run in record.runs if run.setting == setting and run.n == n]
            if not runs:
                continue
            lengths = np.array([run.d for run in runs])
            d = np.geomspace(lengths.min(), lengths.max() * 1.0001, _POINTS)
            colour = _colour(place + number)
            name = f"{setting}, N {formats.count(n)}"
            lines.append(Line(name, d, record.law.multiplier(n, d, setting), colour))
            low, high = _ends(record.laws.multiplier(n, d, setting))
            bands.append(Band(name, d, low, high, colour))
            dots += [
                Dot(name, float(at), _of_cell(record, runs, n, at), None, None, colour, False)
                for at in np.unique(lengths)
            ]
    heights = [dot.y for dot in dots if np.isfinite(dot.y)]
    tops = [*heights, *(float(band.highs.max()) for band in bands)]
    return Chart(
        name="multiplier",
        title="What a method's positions are worth (m)",
        alt="The multiplier over positions, by size, with its interval.",
        caption="Lines and bands are the law's; a diamond is a cell's own mean loss, held against "
        "the baseline's law at that size. 1 is no gain.",
        x_label=_POSITIONS,
        y_label="m: positions of the baseline for one",
        lines=tuple(lines),
        bands=tuple(bands),
        dots=tuple(dot for dot in dots if np.isfinite(dot.y)),
        x_log=True,
        y_range=(0.0, 1.15 * max(tops)),
    )


def _ends(rows: Array) -> tuple[Array, Array]:
    """Of an interval over draws ``[draws, n]``."""
    low, high = np.quantile(rows, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return low, high


def _of_cell(record: LawRecord, runs: list[LawRun], n: float, d: float) -> float:
    """Of the seeds that both sides ran there, so that their levels count for neither."""
    there = {run.seed: run.loss for run in runs if run.d == d}
    baseline = {
        run.seed: run.loss
        for run in record.runs
        if run.setting == BASELINE and run.n == n and run.d == d
    }
    shared = there.keys() & baseline.keys()
    if not shared:
        return float("nan")
    ratio = np.exp(np.mean([np.log(there[seed] / baseline[seed]) for seed in shared]))
    loss = float(record.law.loss(n, d)) * ratio
    return float(record.law.data_for_loss(loss, n)) / d
