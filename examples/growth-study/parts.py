"""What is said of a family: a row a kind, and in sentences what is shown, missing and unequal.

The one idea: a growth that beats one control and not the other has saved nothing, so that every
kind is held against both, and a difference whose interval holds 0 is none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from equal_loss import NO_OTHER_LENGTH, NOTHING, Needed, needed
from kinds import APART, Difference, Endings, Family, Kind, difference, endings, listed
from study import Run, Study

from tst_megatron.experiments.tried_rates import TriedRates


@dataclass(frozen=True)
class Row:
    """A kind of run, and all that is said of it.

    Attributes:
        kind: of it.
        less_small: the kind less the small model trained on.
        less_large: the kind less the large one from scratch.
        needs: FLOPs of the small and of the large control for the kind's loss.
        bags_add: the kind less the same without bags; None of one without.
        less_with_bags: less the small and less the large control with bags; none of one without.
    """

    kind: Kind
    less_small: Difference
    less_large: Difference
    needs: tuple[Needed, Needed]
    bags_add: Difference | None
    less_with_bags: tuple[Difference, ...]

    @property
    def told(self) -> list[Difference]:
        """Its differences, without those of two controls that the other one's row has."""
        found = [self.less_small, self.less_large, *self.less_with_bags]
        if self.kind.run.change is None and self.kind.share == 1:
            found = [self.less_small] if self.kind.run.bags else []
        return [one for one in (*found, self.bags_add) if one is not None and one.of_seeds]


@dataclass(frozen=True)
class Part:
    """A family's part of the report.

    Attributes:
        family: of it.
        rows: a kind each.
        rates: that were tried.
        missing: runs that are not there, a sentence each.
        notes: what else has to be known, likewise.
        found: all of its kinds.
    """

    family: Family
    rows: Sequence[Row]
    rates: Sequence[TriedRates]
    missing: Sequence[str]
    notes: Sequence[str]
    found: Endings


def part_of(study: Study, family: Family) -> Part:
    """What the ledgers say of a family.

    Raises:
        UserError: one cannot be read.
    """
    found = endings(study, family)
    rows = [_row(kind, found) for kind in found.kinds]
    rates = _rates_of(study, family)
    notes = [
        *found.notes,
        *_on_pairs(found),
        *_on_rows(rows),
        *_on_equal_loss(rows, family),
        *_on_rates(study, family),
    ]
    return Part(family, rows, rates, _missing(study, family), notes, found)


def _row(kind: Kind, found: Endings) -> Row:
    small, large = (None if one is kind else one for one in found.controls)
    needs = (_needs(kind, small, found), _needs(kind, large, found))
    bags_add: Difference | None = None
    with_bags: tuple[Difference, ...] = ()
    if kind.run.bags:
        bags_add = difference(kind, found.without_bags(kind))
        with_bags = tuple(
            difference(kind, None if one is kind else one) for one in found.controls_with_bags
        )
    return Row(kind, difference(kind, small), difference(kind, large), needs, bags_add, with_bags)


def _needs(kind: Kind, control: Kind | None, found: Endings) -> Needed:
    return NOTHING if control is None else needed(kind, control, found.others)


def _rates_of(study: Study, family: Family) -> list[TriedRates]:
    """Of both controls' models, those that have a run."""
    told = []
    for model in family.models:
        runs = study.rate_runs(model)
        losses = {run.rate: loss for run in runs if (loss := study.loss(run)) is not None}
        if losses:
            told.append(TriedRates.of(family.name, model.name, losses, study.rate(model)))
    return told


def _missing(study: Study, family: Family) -> list[str]:
    """Runs that are not there, by kind."""
    todo: dict[str, list[Run]] = {}
    for run in family.runs(study):
        if study.loss(run) is None:
            is_rate = run.part == "rate"
            name = f"{run.model.name}, to choose its rate" if is_rate else Kind(family, run).name
            todo.setdefault(name, []).append(run)
    return [f"{name}: {_runs_in_words(runs)}" for name, runs in todo.items()]


def _runs_in_words(runs: Sequence[Run]) -> str:
    if runs[0].part == "rate":
        return f"rate{'s' * (len(runs) > 1)} {listed(f'{run.rate:g}' for run in runs)}"
    return f"seed{'s' * (len(runs) > 1)} {listed(str(run.seed) for run in runs)}"


def _on_pairs(found: Endings) -> list[str]:
    """Controls that are not there, or not with a seed that others have."""
    names = (found.family.trained_on, found.family.from_scratch)
    notes = []
    for name, control in zip(names, found.controls, strict=True):
        if control is None:
            notes.append(f"No run of {name} is there: no difference to it is told.")
            continue
        seeds = {seed for kind in found.kinds for seed in kind.ends} - {*control.ends}
        if seeds:
            notes.append(
                f"Of {name} no seed {listed(map(str, sorted(seeds)))} counts: runs of it are in "
                "no difference to that control."
            )
    return notes


def _on_rows(rows: Sequence[Row]) -> list[str]:
    """How equal the FLOPs are, and how many intervals there are."""
    told = [one for row in rows for one in row.told]
    if not told:
        return []
    apart = 100 * max(one.apart for one in told)
    notes = [
        f"FLOPs of two runs that are compared differ by at most {apart:.2f} % (whole steps; more "
        f"than {100 * APART:g} % would be left out)."
    ]
    with_interval = sum(one.mean.low is not None for one in told)
    alone = sum(len(one.of_seeds) == 1 for one in told)
    if with_interval:
        notes.append(
            f"{with_interval} differences have an interval: were nothing there at all, about "
            f"{with_interval / 20:.1f} of them would leave 0 out by chance."
        )
    if alone:
        notes.append(f"{alone} differences are of one seed and have no interval: nothing is shown.")
    return notes


def _on_equal_loss(rows: Sequence[Row], family: Family) -> list[str]:
    """Controls of one length, of which no FLOPs at equal loss are known."""
    notes = []
    for place, name in enumerate((family.trained_on, family.from_scratch)):
        if any(row.needs[place].how == NO_OTHER_LENGTH for row in rows):
            notes.append(
                f"How many FLOPs {name} needs for another's loss is not measured: it has run at no "
                "other length."
            )
    return notes


def _on_rates(study: Study, family: Family) -> list[str]:
    small, large = (study.rate(model) for model in family.models)
    if small is None or large is None:
        unknown = [m.name for m in family.models if study.rate(m) is None]
        return [
            f"The rate of {listed(unknown)} is not chosen yet: what else there is to run is only "
            "known once it is."
        ]
    if small == large:
        return ["Both controls have one rate, so that no run goes on at another from the change."]
    return []


def shown(rows: Sequence[Row], family: Family) -> list[str]:
    """What intervals show against both controls, a sentence a finding."""
    verdicts: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if not row.kind.is_control:
            said = (verdict(row.less_small), verdict(row.less_large))
            verdicts.setdefault(said, []).append(row.kind.name)
    sentences = [
        f"{_of_controls(said, family)}: {'; '.join(names)}."
        for said, names in sorted(verdicts.items(), key=lambda one: _ORDER.index(one[0][0]))
    ]
    control = next((row for row in rows if row.kind.share == 0 and row.kind.is_control), None)
    if control is not None and control.less_small.of_seeds:
        of_control = f"{family.from_scratch}: {verdict(control.less_small)} {family.trained_on}."
        sentences.insert(0, of_control)
    return sentences


_AHEAD, _BEHIND = "ahead of", "behind"
_NOT_SHOWN, _ALONE, _UNTOLD = (
    "no difference shown to",
    "one seed, so nothing shown, against",
    "not compared with",
)
_ORDER = (_AHEAD, _NOT_SHOWN, _BEHIND, _ALONE, _UNTOLD)


def verdict(found: Difference) -> str:
    """What an interval shows, in words that a control's name follows."""
    if not found.of_seeds:
        return _UNTOLD
    if found.mean.low is None:
        return _ALONE
    if not found.is_shown:
        return _NOT_SHOWN
    return _AHEAD if (found.mean.value or 0.0) < 0 else _BEHIND


def _of_controls(said: tuple[str, str], family: Family) -> str:
    small, large = said
    if small == large:
        text = f"{small} both controls"
    else:
        text = f"{small} {family.trained_on}, {large} {family.from_scratch}"
    return text[0].upper() + text[1:]
