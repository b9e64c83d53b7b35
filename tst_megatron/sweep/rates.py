"""Learning rates in a sweep: every choice, the baseline among them, at the best of those tried.

The one idea: the method's axes are compared at each choice's own rate, so what comes after this
sees one run a choice and seed as it would without rates: those that did not choose the rate, where
there are any (`tst_megatron.runs.rates`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite, nan
from statistics import fmean
from typing import Any

from tst_megatron.runs.outcomes import AtRate, Choice, Outcome
from tst_megatron.runs.rates import BestRate, Seed, best_rate, on_seeds, shared_seeds
from tst_megatron.statistics.log_parabola import LogParabola, lowest

_SHOWN = 6


@dataclass(frozen=True)
class ChosenRate:
    """The rates that a choice was run at.

    Attributes:
        losses: final ones by rate, ascending, and seed.
        best: the rate that is compared, and by which runs it was chosen.
    """

    losses: Mapping[float, Mapping[Seed, float]]
    best: BestRate

    @property
    def seeds(self) -> tuple[Seed, ...]:
        """That every rate has."""
        return shared_seeds(self.losses)

    @property
    def means(self) -> dict[float, float]:
        """Of the losses on those seeds; of all a rate's where there is none."""
        return {
            rate: fmean(of[seed] for seed in self.seeds or of) for rate, of in self.losses.items()
        }

    @property
    def parabola(self) -> LogParabola | None:
        """Through these; None for fewer than three rates."""
        return lowest(list(self.means), list(self.means.values()))

    @property
    def edge(self) -> str | None:
        """Whether the best is the lowest or the highest tried; None between, and of one."""
        rates = list(self.losses)
        ends = {rates[0]: "lowest", rates[-1]: "highest"} if len(rates) > 1 else {}
        return ends.get(self.best.rate)

    def as_json(self) -> dict[str, Any]:
        """For a report."""
        optimum = self.parabola
        return {
            "rate": self.best.rate,
            "tried": [{"rate": rate, "loss": loss} for rate, loss in self.means.items()],
            "seeds": list(self.seeds),
            "chosen_on": list(self.best.chosen_on),
            "confirmed_on": list(self.best.confirmed_on),
            "edge": self.edge,
            "optimum": optimum and optimum.told(),
        }


@dataclass(frozen=True)
class Tuned:
    """A sweep at the best rates.

    Attributes:
        outcomes: one a choice and seed, of its best rate.
        rates: by choice, choices in their order; none where no rates were searched.
    """

    outcomes: tuple[Outcome, ...]
    rates: Mapping[Choice, ChosenRate]


def named_rates(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Outcomes of a method's own choices, the rate beside them where they had one."""
    return [
        replace(one, choice=one.choice.choice, learning_rate=one.choice.learning_rate)
        if isinstance(one.choice, AtRate)
        else one
        for one in outcomes
    ]


def tuned(outcomes: Sequence[Outcome]) -> Tuned:
    """Choose a rate for every choice that was run at some."""
    rates = {
        choice: _chosen([one for one in outcomes if one.choice == choice])
        for choice in sorted({one.choice for one in outcomes if one.learning_rate is not None})
    }
    kept = tuple(one for one in outcomes if _is_compared(one, rates.get(one.choice)))
    return Tuned(kept, rates)


def rate_notes(found: Tuned, best: Choice | None, wanted_seeds: int) -> list[str]:
    """How the rates came about, and what that does to the figures.

    Args:
        found: the sweep.
        best: its lowest cell.
        wanted_seeds: that it was to have; with one, nothing is left to confirm a rate.
    """
    if not found.rates:
        return []
    return [
        *_chosen_notes(found.rates, best),
        *_confirmed_notes(found.rates, wanted_seeds),
        *_edge_notes(found.rates),
    ]


def _chosen(outcomes: Sequence[Outcome]) -> ChosenRate:
    losses: dict[float, dict[Seed, float]] = {}
    for one in sorted(outcomes, key=lambda one: one.learning_rate or 0.0):
        loss = one.loss if isfinite(one.loss) else nan
        losses.setdefault(one.learning_rate or 0.0, {})[one.seed] = loss
    if len(losses) == 1:
        ((rate, of),) = losses.items()
        return ChosenRate(losses, BestRate(rate, (), tuple(of)))
    return ChosenRate(losses, best_rate(losses))


def _is_compared(one: Outcome, chosen: ChosenRate | None) -> bool:
    if chosen is None:
        return True
    best = chosen.best
    return one.learning_rate == best.rate and one.seed in (
        best.confirmed_on or chosen.losses[best.rate]
    )


def _chosen_notes(rates: Mapping[Choice, ChosenRate], best: Choice | None) -> Iterator[str]:
    told = [
        f"{choice} at {chosen.best.rate:g}"
        for choice, chosen in rates.items()
        if choice.is_baseline or choice == best
    ]
    if told:
        yield f"Every choice is compared at its best learning rate: {'; '.join(told)}."


def _confirmed_notes(rates: Mapping[Choice, ChosenRate], wanted_seeds: int) -> Iterator[str]:
    several = [chosen for chosen in rates.values() if len(chosen.losses) > 1]
    confirmed = [one.best for one in several if one.best.confirmed_on]
    if confirmed:
        chose = sorted({seed for best in confirmed for seed in best.chosen_on})
        others = sorted({seed for best in confirmed for seed in best.confirmed_on})
        yield (f"Rates are chosen on {on_seeds(chose)}; losses and gain are of {on_seeds(others)}.")
    alone = sum(not one.best.confirmed_on for one in several)
    if not alone:
        return
    which = "Rates are" if alone == len(several) else f"Rates of {alone} choices are"
    how = "add --seeds" if wanted_seeds < 2 else "let the runs with the other seeds end"
    yield (
        f"{which} chosen on the runs that losses and gain are of, so what luck lowered is in them, "
        f"on both sides; to confirm them on others, {how}."
    )


def _edge_notes(rates: Mapping[Choice, ChosenRate]) -> Iterator[str]:
    for edge, further in (("lowest", "lower"), ("highest", "higher")):
        at = [str(choice) for choice, chosen in rates.items() if chosen.edge == edge]
        if at:
            which = "; ".join(at) if len(at) <= _SHOWN else f"{len(at)} of {len(rates)} choices"
            yield (
                f"The best learning rate of {which} is the {edge} that was tried: add a {further} "
                "one."
            )
