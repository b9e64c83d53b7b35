"""The report's tables: losses at equal FLOPs, what bags add, FLOPs at equal loss, rates."""

from equal_loss import NO_OTHER_LENGTH, ONE_SEED, Needed
from kinds import Difference, Kind, listed
from parts import Part
from study import BAG_SIZE, BUDGET

from tst_megatron.experiments.tried_rates import table_of_rates
from tst_megatron.report import formats
from tst_megatron.report.table import Table

TUNED_AFTER = f"half the FLOPs ({BUDGET / 2:.3g})"
"""How long the runs were that chose the rates."""

_NOTHING = ("", NO_OTHER_LENGTH)


def tables_of(part: Part) -> list[Table]:
    """All of a part's that have a row."""
    found = [_equal_flops(part), _with_bags(part), _equal_loss(part)]
    if part.rates:
        found.append(table_of_rates(part.rates, TUNED_AFTER))
    return [table for table in found if table.rows]


def _equal_flops(part: Part) -> Table:
    family = part.family
    rows = []
    for row in part.rows:
        kind = row.kind
        both = (*_cells(row.less_small), *_cells(row.less_large))
        rows.append((kind.name, *_ends(kind), *both))
    heads = ["", "seeds", "FLOPs", "loss"]
    heads += [f"less {family.trained_on}", "95 %", f"less {family.from_scratch}", "95 %"]
    return Table(
        f"{family.name}: held-out loss at equal FLOPs",
        tuple(heads),
        tuple(rows),
        note="Nats a token, at the end, mean of the seeds. Negative: ahead. Differences are of the "
        "seeds that both have, pair by pair; Student's t of so few.",
    )


def _with_bags(part: Part) -> Table:
    family = part.family
    bags = f"{100 * part.found.bags_of_controls:g} %"
    rows = []
    for row in part.rows:
        if row.bags_add is not None:
            told = (row.bags_add, *row.less_with_bags)
            rows.append((row.kind.name, *(cell for one in told for cell in _cells(one))))
    heads = ["", "less without bags", "95 %"]
    for name in (family.trained_on, family.from_scratch):
        heads += [f"less {name}, bags for {bags}", "95 %"]
    return Table(
        f"{family.name}: with bags of {BAG_SIZE}",
        tuple(heads),
        tuple(rows),
        note="As above; without bags is the same run without them.",
    )


def _equal_loss(part: Part) -> Table:
    family = part.family
    rows = []
    for row in part.rows:
        if any(one.how not in _NOTHING for one in row.needs):
            cells = [cell for one in row.needs for cell in _needed_cells(one)]
            rows.append((row.kind.name, *cells))
    heads = [""]
    for name in (family.trained_on, family.from_scratch):
        heads += [f"{name} needs", "95 %"]
    return Table(
        f"{family.name}: FLOPs of a control for the loss that a run ends with, over that run's",
        tuple(heads),
        tuple(rows),
        note="Above 1: the run needs less. Straight over the logarithm of FLOPs between whole runs "
        "of the control; what lies outside them is not measured. A length of one seed counts as "
        f"uncertain as one of the others' seeds. {_seeds_by_length(part)}",
    )


def _ends(kind: Kind) -> tuple[str, str, str]:
    seeds = ", ".join(map(str, sorted(kind.ends)))
    return seeds, formats.flops(kind.flops), formats.loss(kind.loss.value)


def _cells(found: Difference) -> tuple[str, str]:
    if not found.of_seeds:
        return "", ""
    value = formats.signed(found.mean.value)
    return value, ONE_SEED if len(found.of_seeds) == 1 else formats.difference_range(found.mean)


def _needed_cells(found: Needed) -> tuple[str, str]:
    if found.ratio.value is None:
        return ("", "") if found.how in _NOTHING else (found.how, "not measured")
    value = formats.ratio(found.ratio.value)
    return value, ONE_SEED if found.how == ONE_SEED else formats.ratio_range(found.ratio)


def _seeds_by_length(part: Part) -> str:
    """How many seeds controls have at each length, in a sentence."""
    told = []
    for control in part.found.controls:
        if control is not None:
            of = [control, *(one for one in part.found.others if one.series == control.series)]
            of.sort(key=lambda one: one.run.length)
            counts = listed(f"{len(one.ends)} at {one.run.length:g}×" for one in of)
            told.append(f"{control.name} has {counts}")
    return f"Seeds: {'; '.join(told)}."
