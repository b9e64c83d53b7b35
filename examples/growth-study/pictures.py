"""What the report draws: training loss over FLOPs, and differences to a control by when it changed.

The one idea: the share of the FLOPs that the small model has is an axis. The large model from
scratch is at 0, the small one trained on at 100 %, and whatever changes on the way stands between.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from kinds import Endings, Family, Kind, difference, read
from study import BUDGET, Study

from tst_megatron.report.chart import Chart, Dot, Line, Rule, around, on_open_ends
from tst_megatron.runs.run import RecordedRun
from tst_megatron.statistics.array import Array

SMALL_COLOUR, LARGE_COLOUR = "#4d5156", "#8f959b"
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7b3f00", "#332288")
_ORDINARY = "lm loss"
# Of the FLOPs: what is drawn, and what the axis holds. Before it losses are far above all else.
_FIRST, _LATE = 0.1, 0.2
# Between figures of one share, in per cent of the FLOPs.
_BESIDE = 1.6
_ROOM = 0.1
# Of the budget, to either side: what curves are smoothed over.
_REACH = 0.1
_LEAST_SPREAD = 1e-9
_FLOPS = f"FLOPs, % of {BUDGET:.2g}"


def curves(study: Study, found: Endings) -> Iterator[Chart]:
    """Training loss over FLOPs of one seed: as it grows by itself, in other ways, with bags.

    Raises:
        UserError: a ledger cannot be read.
    """
    seed = _seed_shown(found)
    if seed is None:
        return
    first = next((one.series for one in found.kinds if one.run.change is not None), "")
    parts: tuple[tuple[str, str, Callable[[Kind], bool]], ...] = (
        ("plain", first, lambda kind: not _is_other(kind, first) and not kind.run.bags),
        ("others", "other ways", lambda kind: _is_other(kind, first) and not kind.run.bags),
        ("bags", "with bags", lambda kind: bool(kind.run.bags)),
    )
    for name, title, is_of in parts:
        kinds = [one for one in found.kinds if not one.is_control and is_of(one)]
        if kinds or name == "plain":
            yield _curves(study, found, kinds, seed, name, title)


def _is_other(kind: Kind, first: str) -> bool:
    return kind.series != first or kind.run.rate_after is not None


def _seed_shown(found: Endings) -> int | None:
    """The one that most kinds have; of several the first."""
    seeds = sorted({seed for kind in found.kinds for seed in kind.ends})
    counts = [sum(seed in kind.ends for kind in found.kinds) for seed in seeds]
    return seeds[counts.index(max(counts))] if seeds else None


def _curves(
    study: Study, found: Endings, kinds: Sequence[Kind], seed: int, name: str, title: str
) -> Chart:
    family = found.family
    shown = [one for one in (*found.controls, *kinds) if one is not None and seed in one.ends]
    lines, errors, shares = [], [], {kind.run.at for kind in shown if kind.run.change is not None}
    for kind, colour in zip(shown, _colours([one.name for one in shown], family), strict=True):
        run = read(study.kept, replace(kind.run, seed=seed))
        curve = _smooth(run, from_share=max(kind.run.at, kind.run.bags))
        line = Line(kind.name, 100 * curve.shares, curve.losses, colour, 1.6)
        lines.append(replace(line, dash="dash") if kind.is_control else line)
        held_out = np.array([kind.ends[seed].loss])
        lines.append(Line(kind.name, np.array([100.0]), held_out, colour, marked=True))
        errors.append(curve.stderrs)
    late = np.concatenate([line.ys[line.xs >= 100 * _LATE] for line in lines] or [np.array([])])
    what = f"{family.name}: training loss over FLOPs" + (f", {title}" if title else "")
    return Chart(
        name=f"curves-{family.name.lower()}-{name}",
        title=what,
        alt=f"{what}, seed {seed}; upright lines where models change.",
        caption=f"Seed {seed}; the loss of single steps, smoothed over {100 * _REACH:g} % of the "
        f"FLOPs to either side, and with them the decay in the last tenth.{_on_errors(errors)} "
        "Points at 100 %: the held-out loss, which alone is compared. A changed model's curve "
        "begins with the change, at an upright line, or where its bags end: a loss on bags is "
        "another loss.",
        x_label=_FLOPS,
        y_label="training loss, nats a token",
        lines=tuple(lines),
        rules=tuple(Rule(100 * at, "x", f"{100 * at:g} %") for at in sorted(shares)),
        x_range=(100 * _FIRST - 2, 101.0),
        y_range=around(late, (), 0.0) if late.size else None,
    )


def _on_errors(errors: Sequence[Array]) -> str:
    """How far a smooth curve may be off, in words."""
    told = [float(np.median(one)) for one in errors if one.size]
    if not told:
        return ""
    return f" Two standard errors are {2 * min(told):.2f} to {2 * max(told):.2f} nats."


@dataclass(frozen=True)
class _Curve:
    """A run's smooth training loss over shares of the budget ``[n]``, with its standard errors."""

    shares: Array
    losses: Array
    stderrs: Array


def _smooth(run: RecordedRun, from_share: float) -> _Curve:
    """Of ordinary steps from a share on."""
    steps = run.steps
    ordinary = np.array([name == _ORDINARY for name in steps.loss_names], bool)
    told = ordinary & np.isfinite(steps.losses) & np.isfinite(steps.flops) & (steps.flops > 0)
    told &= steps.flops > from_share * BUDGET
    shares, losses = steps.flops[told] / BUDGET, steps.losses[told]
    lines = _local_lines(shares)
    smooth = lines @ losses
    left = losses - smooth
    scatter = float(np.sqrt(left @ left / max(1, len(left) - 1)))
    return _Curve(shares, smooth, scatter * np.linalg.norm(lines, axis=1))


def _local_lines(shares: Array) -> Array:
    """Rows ``[n, n]`` that give at each point a line over the logarithm through those within reach.

    One width for all: single steps scatter by more than curves bend, and a width that is chosen by
    so few of them would follow the scatter.
    """
    far = np.abs(shares[:, None] - shares[None, :]) / _REACH
    weights = np.clip(1 - far**3, 0, None) ** 3
    offsets = np.log(shares)[None, :] - np.log(shares)[:, None]
    whole, first, second = (
        (weights * offsets**power).sum(axis=1, keepdims=True) for power in (0, 1, 2)
    )
    spread = whole * second - first**2
    # Where there is one point alone it is its own line.
    known = spread > _LEAST_SPREAD * whole**2
    lines = weights * (second - first * offsets) / np.where(known, spread, 1.0)
    return np.asarray(np.where(known, lines, weights / whole))


def dots(found: Endings) -> Iterator[Chart]:
    """Differences to each control, by the share of the FLOPs at which the model changes."""
    family = found.family
    names = (family.trained_on, family.from_scratch)
    for side, name, control in zip(("small", "large"), names, found.controls, strict=True):
        told = [] if control is None else _dots(found, control)
        if told:
            yield _dots_chart(family, side, name, told)


def _dots(found: Endings, control: Kind) -> list[Dot]:
    pairs = [(kind, difference(kind, control).mean) for kind in found.kinds if kind is not control]
    told = [(kind, mean) for kind, mean in pairs if mean.value is not None]
    series = list(dict.fromkeys(_series(kind) for kind, _ in told))
    colours = dict(zip(series, _colours(series, found.family), strict=True))
    marks: list[Dot] = []
    for kind, mean in told:
        name = _series(kind)
        at_share = [one for one, _ in told if one.share == kind.share]
        beside = at_share.index(kind) - (len(at_share) - 1) / 2
        x, is_first = 100 * kind.share + _BESIDE * beside, name not in {dot.name for dot in marks}
        y = mean.value or 0.0
        marks.append(Dot(name, x, y, mean.low, mean.high, colours[name], is_first))
    return marks


def _dots_chart(family: Family, side: str, name: str, told: Sequence[Dot]) -> Chart:
    values = np.array([0.0, *(dot.y for dot in told)])
    y_range = around(values, [end for dot in told for end in (dot.low, dot.high)], _ROOM)
    title = f"{family.name}: held-out loss less that of {name}"
    return Chart(
        name=f"differences-{family.name.lower()}-{side}",
        title=title,
        alt=f"{title}, by the share of the FLOPs at which the model changes.",
        caption="At equal FLOPs; mean of the seeds that both have, with Student's 95 % interval. "
        f"Below 0 is ahead. At 0 % is {family.from_scratch}, at 100 % {family.trained_on}; figures "
        "of one share stand beside one another." + on_open_ends((), told, y_range),
        x_label="share of the FLOPs before the change, %",
        y_label="difference, nats a token",
        lines=(),
        dots=tuple(told),
        rules=(Rule(0.0, "y", ""),),
        x_range=(-5.0, 105.0),
        y_range=y_range,
        x_ticks=(0.0, 10.0, 25.0, 50.0, 75.0, 100.0),
    )


def _series(kind: Kind) -> str:
    """Without the share at which the model changes."""
    words = [kind.series]
    if kind.run.bags:
        words.append(f"bags for {100 * kind.run.bags:g} %")
    if kind.run.rate_after is not None:
        words.append("the large one's rate")
    return ", ".join(words)


def _colours(names: Sequence[str], family: Family) -> list[str]:
    """Controls grey, others in their order; more than there are colours begin anew."""
    greys = {family.trained_on: SMALL_COLOUR, family.from_scratch: LARGE_COLOUR}
    others = [name for name in names if name not in greys]
    colours = greys | {name: _COLOURS[at % len(_COLOURS)] for at, name in enumerate(others)}
    return [colours[name] for name in names]
