"""Sweeps of the learning rate: groups that differ in it alone are one setting, at its best rate.

The one idea: best is compared with best, so every setting and length comes to the comparison at the
rate that was chosen for it, with the runs that did not choose (`tst_megatron.runs.rates`). The
others are shown and not compared.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from tst_megatron.analysis.compare.group_curve import diverged, final, runs_used
from tst_megatron.analysis.compare.groups import (
    Group,
    RateSweep,
    Side,
    differ_by_rate_alone,
    names_of,
    settings_apart,
)
from tst_megatron.report import formats
from tst_megatron.runs.rates import Seed, best_rate, listed, on_seeds, shared_seeds
from tst_megatron.runs.run import RecordedRun
from tst_megatron.statistics.log_parabola import FEWEST, LogParabola, lowest

DIVERGED = "diverged"
"""What stands in the place of a loss that is no number."""


@dataclass(frozen=True)
class Tuned:
    """A side with a rate for every setting and length.

    Attributes:
        groups: what is compared, one of each; those of several rates have their `RateSweep`.
        others: the runs at other rates, and those that chose.
    """

    groups: tuple[Group, ...]
    others: tuple[Group, ...]


def tuned(groups: Sequence[Group], others: Sequence[Group], side: Side) -> Tuned:
    """Choose a rate wherever several were tried.

    Args:
        groups: of one side.
        others: of the other side, whose seeds are left to confirm where that can be.
        side: the groups'.
    """
    elsewhere = {run.facts.seed for group in others for run in group.runs}
    settings = _settings(groups)
    names = names_of([setting[0] for setting in settings], side)
    found = [
        _at_its_best(name, setting, elsewhere)
        for name, setting in zip(names, settings, strict=True)
    ]
    return Tuned(
        tuple(group for one in found for group in one.groups),
        tuple(group for one in found for group in one.others),
    )


def parabola(sweep: RateSweep) -> LogParabola | None:
    """Of its losses; None of fewer than three rates."""
    return lowest(sweep.rates, sweep.losses) if len(sweep.groups) >= FEWEST else None


def edge(sweep: RateSweep) -> str | None:
    """Whether the rate that was chosen is the lowest or the highest tried; None between."""
    ends = {sweep.rates[0]: "lowest", sweep.rates[-1]: "highest"}
    return ends.get(sweep.best.rate)


def at_rate_of(first: Group, group: Group) -> Group | None:
    """The runs of another length that are of the first's setting; None where none is.

    The best rate at each length is one baseline where both lengths have chosen it; a length of one
    rate has that of another as it is.
    """
    tried = group.sweep.groups if group.sweep and not first.sweep else ()
    return next((one for one in (group, *tried) if not settings_apart(first, one)), None)


def not_listed(groups: Sequence[Group], used: Sequence[Group]) -> tuple[Group, ...]:
    """Groups with the runs that no used group has."""
    has = {id(run) for group in used for run in group.runs}
    left = [
        replace(group, runs=tuple(run for run in group.runs if id(run) not in has))
        for group in groups
    ]
    return tuple(group for group in left if group.runs)


def why_unconfirmed(baseline: Sequence[Group], candidate: Group) -> str:
    """Why nothing is claimed: a rate was chosen on the runs that figures are of; or nothing."""
    sides = (("the baseline", baseline), ("the candidate", (candidate,)))
    names = [name for name, groups in sides if any(map(_is_unconfirmed, groups))]
    if not names:
        return ""
    return (
        f"the learning rate of {' and '.join(names)} was chosen on the runs that the figure is of"
    )


def rate_notes(baseline: Sequence[Group], candidate: Group) -> list[str]:
    """How the rates of a comparison came about, and what that does to its figures.

    Args:
        baseline: its groups, of several lengths perhaps.
        candidate: the group that is compared with them.
    """
    notes = [note for group in (*baseline, candidate) for note in _sweep_notes(group)]
    return [*notes, *_untuned_notes(baseline, candidate)]


def shown_rate(rate: float | None) -> str:
    """As a flag has it."""
    return formats.UNKNOWN if rate is None else f"{rate:g}"


def _settings(groups: Sequence[Group]) -> list[list[Group]]:
    """Groups that differ in the rate alone, put together."""
    found: list[list[Group]] = []
    for group in groups:
        like = (one for one in found if all(differ_by_rate_alone(group, of) for of in one))
        if (setting := next(like, None)) is not None:
            setting.append(group)
        else:
            found.append([group])
    return found


def _at_its_best(name: str, setting: Sequence[Group], elsewhere: Collection[Seed]) -> Tuned:
    """One group of a setting of some name, and what it leaves.

    A rate of which no run came to an end has not been tried yet, where others have.
    """
    every = Group("", tuple(run for group in setting for run in group.runs), setting[0].num_steps)
    ended = {id(run) for run in (*runs_used(every), *filter(diverged, every.runs))}
    tried = sorted(
        (group for group in setting if any(id(run) in ended for run in group.runs)),
        key=lambda group: group.rate or 0,
    )
    if len(tried) < 2 or not runs_used(every):
        return Tuned(tuple(setting), ())
    losses = {group.rate or 0.0: _by_seed(group, ended) for group in tried}
    best, seeds = best_rate(losses, elsewhere), shared_seeds(losses)
    means = tuple(fmean(of[seed] for seed in seeds or of) for of in losses.values())
    sweep = RateSweep(name, tuple(tried), means, seeds, best)
    whole = next(group for group in tried if group.rate == best.rate)
    chose = best.chosen_on if sweep.is_confirmed else ()
    chosen = replace(whole, runs=_without(whole, chose), sweep=sweep)
    choosing = [replace(whole, name=f"{whole.name} (chosen on)")]
    rest = [group for group in setting if group is not whole]
    return Tuned((chosen,), (*not_listed(choosing, [chosen]), *rest))


def _by_seed(group: Group, ended: Collection[int]) -> dict[Seed, float]:
    """Mean final losses of the runs that ended; NaN of one that diverged."""
    losses: dict[Seed, list[float]] = {}
    for run in group.runs:
        if id(run) in ended:
            loss = final(run)
            losses.setdefault(run.facts.seed, []).append(float("nan") if loss is None else loss)
    return {seed: fmean(of) for seed, of in losses.items()}


def _without(group: Group, seeds: Collection[Seed]) -> tuple[RecordedRun, ...]:
    return tuple(run for run in group.runs if run.facts.seed not in seeds)


def _is_unconfirmed(group: Group) -> bool:
    return group.sweep is not None and not group.sweep.is_confirmed


def _sweep_notes(group: Group) -> Iterator[str]:
    sweep = group.sweep
    if sweep is None:
        return
    best, setting = sweep.best, f'"{sweep.name}"'
    tried = (
        f"{len(sweep.groups)} tried ({shown_rate(sweep.rates[0])} to {shown_rate(sweep.rates[-1])})"
    )
    if sweep.is_confirmed:
        yield (
            f"The learning rate of {setting}, {shown_rate(best.rate)}, is the best of {tried} on "
            f"{on_seeds(best.chosen_on)}; its figures are of {on_seeds(best.confirmed_on)}."
        )
    else:
        why, instead = (
            (
                f"by {on_seeds(best.chosen_on)}, of which its figures are too",
                f"run {shown_rate(best.rate)} with another seed to confirm it",
            )
            if best.chosen_on
            else (
                "by all of their runs, as no seed was run at every rate",
                "run every rate with one seed, and the best of them with others",
            )
        )
        yield (
            f"The learning rate of {setting}, {shown_rate(best.rate)}, was chosen of {tried} "
            f"{why}. Of rates that are alike the lucky one ends lowest, so its loss is taken for "
            f"lower than it is, and nothing is claimed: {instead}."
        )
    if (at := edge(sweep)) is not None:
        further = "lower" if at == "lowest" else "higher"
        yield (
            f"The best learning rate of {setting} is the {at} that was tried: a {further} one may "
            "be better."
        )


def _untuned_notes(baseline: Sequence[Group], candidate: Group) -> Iterator[str]:
    """What one rate on a side does to the figures; nothing where no rate is told."""
    first = baseline[0] if baseline else candidate
    if first.rate is None or candidate.rate is None:
        return
    theirs, ours = first.sweep is not None, candidate.sweep is not None
    if not theirs and not ours:
        rates = (
            f"one learning rate, {shown_rate(first.rate)},"
            if first.rate == candidate.rate
            else f"one learning rate each ({shown_rate(first.rate)} the baseline, "
            f"{shown_rate(candidate.rate)} the candidate)"
        )
        yield (
            f"Both sides ran at {rates} and no other was tried here: what suits one side better "
            "than the other is in every figure. Run several rates on each side."
        )
    elif not theirs:
        yield (
            f"The learning rate was tuned for the candidate alone, and the baseline ran at "
            f"{shown_rate(first.rate)}: what tuning would gain the baseline is missing, so figures "
            "err in the candidate's favour. Run several rates of the baseline."
        )
    elif not ours:
        yield (
            f"The learning rate was tuned for the baseline alone, and the candidate ran at "
            f"{shown_rate(candidate.rate)}: what tuning would gain the candidate is missing, so "
            "figures err in the baseline's favour."
        )
    untuned = [f"{group.num_steps:,}" for group in baseline[1:] if theirs and group.sweep is None]
    if untuned:
        yield (
            f"At {listed(untuned)} steps the baseline ran at one learning rate, which was not "
            "tuned there: a better one would bring it to a loss in fewer steps."
        )
