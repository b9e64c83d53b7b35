"""A comparison in words, for the page, the terminal and the charts alike.

The one idea: what is said follows from the figures and their intervals alone, the same words for a
win, a loss and a draw; and an extrapolated figure never stands without that word.
"""

from collections.abc import Sequence

from tst_megatron.analysis.compare.amounts import FLOPS, GPU_HOURS, STEPS, WALL_CLOCK, Amount
from tst_megatron.analysis.compare.group_curve import diverged, is_untrained, runs_used
from tst_megatron.analysis.compare.result import Comparison, EqualLoss, Findings
from tst_megatron.analysis.compare.stories import stories_of
from tst_megatron.methods.story import Story
from tst_megatron.report import formats
from tst_megatron.statistics.interval import Interval

NO_DIFFERENCE = "no difference shown"
EXTRAPOLATED = "extrapolated"
UNLIKE = "decays not alike"
UNCONFIRMED = "rate not confirmed"
ROUGH = "a rough guide"
AT_LEAST = "at least"
OTHER_HARDWARE = "other hardware"
ONE_SEED = "one seed a side"
# What the headline is about: the first of these that both sides logged.
_IN_ORDER = (GPU_HOURS, WALL_CLOCK, FLOPS, STEPS)


def headline(comparison: Comparison, clocks_compare: bool = True) -> str:
    """The result in two sentences: at equal loss, then at equal FLOPs, or steps where those are not
    known; what claims nothing is last.

    Args:
        comparison: what was found.
        clocks_compare: hours of both sides are of the same hardware.
    """
    amount = _lead_amount([comparison], clocks_compare)
    sentences = [_equal_loss(comparison, amount), _equal_work(comparison)]
    work = comparison.equal_work
    claimed = work.at_end and not work.unclaimed and not work.loss_difference.holds(0)
    if comparison.equal_loss.unlike and claimed:
        sentences.reverse()
    return " ".join(sentence for sentence in sentences if sentence)


def lead_amount(findings: Findings) -> Amount:
    """What the first ratio is of: GPU hours where they compare, were logged and can be trusted."""
    return _lead_amount(findings.comparisons, findings.clocks_compare)


def _lead_amount(comparisons: Sequence[Comparison], clocks_compare: bool) -> Amount:
    by_clock = clocks_compare and not any(c.equal_loss.by_clock_alone for c in comparisons)
    every = [one for one in _IN_ORDER if by_clock or one not in (GPU_HOURS, WALL_CLOCK)]
    told = [one for one in every if any(one.ratio(c.equal_loss).value for c in comparisons)]
    return next(iter(told), STEPS)


def arrow_text(equal: EqualLoss, amount: Amount) -> str:
    """As ``1.35× fewer GPU hours``, and on a second line what has to stand beside it."""
    found = amount.ratio(equal)
    if found.value is None:
        return ""
    first = _times(found.value, amount)
    if not equal.shows(found):
        first = f"{amount.label}: {formats.ratio(found.value)}"
    beside = remark(found, 1, *marks(equal))
    return f"{first}\n{beside}" if beside else first


def marks(equal: EqualLoss) -> list[str]:
    """What has to stand beside every figure of the baseline, whatever the figure is."""
    told = {
        EXTRAPOLATED: equal.extrapolated,
        ROUGH: equal.rough,
        AT_LEAST: equal.at_least,
        UNLIKE: bool(equal.unlike),
        UNCONFIRMED: bool(equal.unconfirmed),
    }
    return [word for word, stands in told.items() if stands]


def remark(interval: Interval, nothing: float, *others: str) -> str:
    """What has to stand beside a figure.

    Args:
        interval: the figure.
        nothing: what it is where the sides do not differ: 1 of a ratio, 0 of a difference.
        others: further words that stand there, such as those of `marks`.
    """
    if interval.value is None:
        return ""
    return ", ".join([*([NO_DIFFERENCE] if interval.holds(nothing) else []), *others])


def _times(value: float, amount: Amount) -> str:
    if value >= 1:
        return f"{formats.ratio(value)} {amount.less} {amount.label}"
    return f"{formats.ratio(1 / value)} more {amount.label}"


def _equal_loss(comparison: Comparison, amount: Amount) -> str:
    equal = comparison.equal_loss
    if equal.loss.value is None:
        return f"There is no comparison yet: {_why_nothing(comparison)}."
    level = f"a held-out loss of {formats.loss(equal.loss.value)}"
    found = amount.ratio(equal)
    if found.value is None and equal.reached and not equal.is_told:
        return f"The baseline had {level}, which the candidate ended at, by its first evaluation."
    if found.value is None:
        return f"The baseline did not get to {level}, which the candidate ended at."
    if equal.unclaimed:
        return f"No saving is claimed at {level}, as {equal.unclaimed}."
    beside = [_interval(comparison, formats.ratio_range(found)), equal.where]
    if equal.extrapolated:
        beside += [f"{EXTRAPOLATED}, as the baseline did not get there"]
    if equal.rough:
        beside += [f"{ROUGH}, as the learning rate decays all along"]
    if comparison.one_seed:
        beside += [ONE_SEED]
    if equal.at_least and not found.holds(1):
        return (
            f"The candidate got to {level} with {AT_LEAST} {_times(found.value, amount)} than the "
            f"baseline, whose longest run did not get there (ratio {_number(found)}, "
            f"{'; '.join(beside)})."
        )
    if found.holds(1):
        what = f"{_capital(NO_DIFFERENCE)} in {amount.label} to {level}: "
        return (
            f"{what}the baseline's over the candidate's is {_number(found)} ({'; '.join(beside)})."
        )
    what = f"The candidate got to {level} with {_times(found.value, amount)} than the baseline"
    return f"{what} (ratio {_number(found)}, {'; '.join(beside)})."


def _why_nothing(comparison: Comparison) -> str:
    """Which side has no held-out loss at its end, and why."""
    sides = (("the baseline", comparison.baseline), ("the candidate", (comparison.candidate,)))
    told = []
    for side, groups in sides:
        runs = [run for found in groups for run in found.runs]
        ends = [run for run in runs if diverged(run)]
        if any(map(runs_used, groups)):
            continue
        if ends:
            told.append(
                f"{side} diverged, its held-out loss is not finite at step "
                f"{ends[0].curve.steps[-1]:,.0f}"
            )
        elif any(map(is_untrained, runs)):
            told.append(f"{side} has no held-out loss after step 0")
        else:
            told.append(f"{side} has no held-out loss")
    return "; ".join(told) or "a side has no held-out loss"


def _equal_work(comparison: Comparison) -> str:
    work = comparison.equal_work
    found = work.loss_difference
    if found.value is None:
        return ""
    what = "FLOPs" if work is comparison.equal_flops else "steps (FLOPs are not known)"
    where = f"At equal {what}" if work.at_end else f"At the largest equal {what}"
    if work.unclaimed:
        return f"{where} nothing is claimed, as {work.unclaimed}."
    ends = _interval(comparison, formats.difference_range(found))
    if comparison.one_seed:
        ends += f"; {ONE_SEED}"
    interval = f"{formats.signed(found.value)} {comparison.unit.of_a_difference}, {ends}"
    if found.holds(0):
        return f"{where} there is {NO_DIFFERENCE} in the held-out loss ({interval})."
    side = "lower" if found.value < 0 else "higher"
    return f"{where} the candidate's held-out loss is {side} ({interval})."


def _interval(comparison: Comparison, ends: str) -> str:
    rate = formats.percent(comparison.confidence)
    return f"no {rate} interval" if ends == formats.NO_RANGE else f"{rate} interval {ends}"


def _number(found: Interval) -> str:
    return formats.ratio(found.value).removesuffix("×")


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]


def warnings(findings: Findings) -> list[str]:
    """What has to be read before any figure: that the comparison was forced, and why."""
    if not findings.reasons:
        return []
    return [f"Forced; without --force it is refused: {' '.join(findings.reasons)}"]


def title(findings: Findings) -> str:
    """Of a report: what is compared."""
    titles = [story.title for story in _stories(findings)]
    return f"{' and '.join(titles) or 'A candidate'} against the baseline"


def explained(findings: Findings) -> list[str]:
    """How figures of the candidates' methods are to be read."""
    return [sentence for story in _stories(findings) for sentence in story.explained]


def _stories(findings: Findings) -> list[Story]:
    """Of the methods of the candidate groups, each once."""
    every = [story for group in findings.candidate for story in stories_of(group.runs[0])]
    return list({story.name: story for story in every}.values())


def between(findings: Findings) -> str:
    """Which two groups the headline is of; nothing where there is no comparison."""
    if not findings.comparisons:
        return ""
    best = findings.comparisons[0]
    others = len(findings.comparisons) - 1
    first = f", the lowest of {others + 1} candidate groups," if others else ""
    return f"{best.candidate.name}{first} against {best.baseline[0].name}"


def first_sentences(findings: Findings) -> str:
    """The headline; without a comparison, why there is none."""
    if findings.comparisons:
        return headline(findings.comparisons[0], findings.clocks_compare)
    sides = (("the baseline", findings.baseline), ("the candidate", findings.candidate))
    missing = " or of ".join(name for name, groups in sides if not groups)
    return f"There is no comparison yet: there is no run of {missing}."


def notes(findings: Findings) -> list[str]:
    """What a reader should know of the headline, each once."""
    every = [*findings.notes]
    for one in findings.comparisons[:1]:
        every += [one.uncertainty, *one.notes]
    if len(findings.comparisons) > 1:
        every.append(
            "The first candidate group is the one that ended lowest: its interval is that of one "
            "group, and does not know that it was chosen."
        )
    every += [f"{run.name}: {note}" for _, _, run in findings.runs() for note in run.notes]
    return list(dict.fromkeys(every))


def notes_of_others(findings: Findings) -> list[str]:
    """What a reader should know of the other candidate groups besides, with their names."""
    first = notes(findings)
    return [
        f"{one.candidate.name}: {note}"
        for one in findings.comparisons[1:]
        for note in dict.fromkeys([one.uncertainty, *one.notes])
        if note not in first
    ]
