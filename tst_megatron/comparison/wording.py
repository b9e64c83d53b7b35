"""A report in words and table cells, for the page and the terminal alike.

The one idea: what is said follows from the report's numbers alone, the same words for a win, a loss
and a draw.
"""

from typing import Any

NOT_REACHED = "not reached"
UNKNOWN = "–"
# Losses are shown to 0.001 nats; a smaller difference is shown as none.
_SHOWN_DIFFERENCE = 0.0005
_RUNS = (("baseline", "the baseline"), ("tst", "the TST run"))
_SCALES = ((1e12, "T"), (1e9, "B"), (1e6, "M"))

WALL_CLOCK_NOTE = (
    "Wall-clock counts everything since the start of the process: start-up, evaluation and "
    "checkpoints as well as training."
)


def headline(report: dict[str, Any]) -> str:
    """The result in one sentence.

    Args:
        report: as in report.json, but for its headline.
    """
    missing = [name for key, name in _RUNS if report[key] is None]
    if missing:
        return f"There is no comparison yet: there is no ledger of {' or of '.join(missing)}."
    difference = report["equal_flops"]["loss_difference"]
    if difference is None:
        return "There is no comparison yet: the runs have no held-out loss at equal FLOPs."
    where, verb = "At equal FLOPs", "ended"
    if not _at_end(report):
        where, verb = "At the largest FLOPs count with held-out losses of both runs", "was"
    verdict = "no saving so far" if report["partial"] else "no saving at this scale"
    if abs(difference) < _SHOWN_DIFFERENCE:
        return f"{where} the TST run {verb} at the same held-out loss as the baseline: {verdict}."
    size = f"{abs(difference):.3f} nats"
    if difference > 0:
        return f"{where} the TST run {verb} {size} higher than the baseline: {verdict}."
    return f"{where} the TST run {verb} {size} lower than the baseline{_saving(report)}."


def table_rows(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(what, baseline, TST) for every figure.

    Args:
        report: as in report.json.
    """
    difference = report["equal_flops"]["loss_difference"]
    equal = report["equal_loss"]
    return [
        _row(report, "Steps", "steps", count),
        _row(report, "Positions", "positions", count),
        _row(report, "Data tokens", "data_tokens", count),
        _row(report, "FLOPs", "flops", flops),
        _row(report, "Wall-clock", "wall_clock_s", duration),
        _row(report, "Final held-out loss (nats a token)", "final_validation_loss", loss),
        ("Loss difference at equal FLOPs (nats)", "", signed(difference)),
        *_crossing_rows(report, "tst_final_loss", "the TST run's final loss"),
        *_crossing_rows(report, "baseline_final_loss", "the baseline's final loss"),
        (f"Baseline's steps ÷ TST's to loss {loss(equal['loss'])}", "", ratio(equal["step_ratio"])),
        (
            f"Baseline's wall-clock ÷ TST's to loss {loss(equal['loss'])}",
            "",
            ratio(equal["wall_clock_ratio"]),
        ),
    ]


def count(value: float) -> str:
    """Whole numbers with their order of magnitude in words beyond a million."""
    whole = f"{value:,.0f}"
    scale = next(((size, letter) for size, letter in _SCALES if value >= size), None)
    return whole if scale is None else f"{whole} ({value / scale[0]:.3g}{scale[1]})"


def flops(value: float) -> str:
    """As 1.234e+15."""
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    """Seconds as a reader would say them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def loss(value: float | None) -> str:
    """Nats a token."""
    return UNKNOWN if value is None else f"{value:.3f}"


def signed(value: float | None) -> str:
    """A difference with its sign; a dash without one."""
    if value is None:
        return UNKNOWN
    return "0.000" if abs(value) < _SHOWN_DIFFERENCE else f"{value:+.3f}".replace("-", "−")


def ratio(value: float | None) -> str:
    """As 1.23×."""
    return UNKNOWN if value is None else f"{value:.2f}×"


def _row(report: dict[str, Any], label: str, key: str, show: Any) -> tuple[str, str, str]:
    values = [None if report[run] is None else report[run][key] for run, _ in _RUNS]
    baseline, tst = (UNKNOWN if value is None else show(value) for value in values)
    return label, baseline, tst


def _crossing_rows(report: dict[str, Any], key: str, target: str) -> list[tuple[str, str, str]]:
    """Steps and wall-clock of both runs to one loss."""
    found = report["crossings"][key]

    def cells(name: str, show: Any) -> list[str]:
        points = [(run, found[run]) for run, _ in _RUNS]
        return [_absent(report, run, found) if p is None else show(p[name]) for run, p in points]

    steps, clocks = cells("step", count), cells("wall_clock_s", duration)
    return [
        (f"Steps to {target} ({loss(found['loss'])})", steps[0], steps[1]),
        (f"Wall-clock to {target} ({loss(found['loss'])})", clocks[0], clocks[1]),
    ]


def _absent(report: dict[str, Any], run: str, found: dict[str, Any]) -> str:
    """Why there is no crossing: a run without a loss has not failed to reach one."""
    known = report[run] is not None and report[run]["final_validation_loss"] is not None
    return NOT_REACHED if known and found["loss"] is not None else UNKNOWN


def _at_end(report: dict[str, Any]) -> bool:
    """The difference at equal FLOPs is that of the final losses."""
    finals = [report[run]["final_validation_loss"] for run, _ in _RUNS]
    difference: float = report["equal_flops"]["loss_difference"]
    return None not in finals and difference == finals[1] - finals[0]


def _saving(report: dict[str, Any]) -> str:
    """Where both runs got to the baseline's final loss, in steps and in wall-clock."""
    found = report["crossings"]["baseline_final_loss"]
    theirs, ours = found["baseline"], found["tst"]
    if theirs is None or ours is None:
        return ""
    return (
        f" and reached the baseline's final loss after {count(ours['step'])} steps and "
        f"{duration(ours['wall_clock_s'])}, against the baseline's {count(theirs['step'])} steps "
        f"and {duration(theirs['wall_clock_s'])}"
    )
