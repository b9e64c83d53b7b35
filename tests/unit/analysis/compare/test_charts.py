from dataclasses import replace

import numpy as np
import pytest
from made_findings import STEPS, SWITCH, baseline, comparison, equal_loss, findings, superposed

from tst_megatron.analysis.compare.amounts import DATA_TOKENS, FLOPS, GPU_HOURS
from tst_megatron.analysis.compare.amounts import STEPS as STEP
from tst_megatron.analysis.compare.charts.logged import logged_charts
from tst_megatron.analysis.compare.charts.loss import loss_chart, mean_of, no_losses
from tst_megatron.analysis.compare.charts.palette import left_out, shown
from tst_megatron.analysis.compare.charts.saving import difference_chart, saving_chart
from tst_megatron.analysis.compare.charts.switch import switch_chart
from tst_megatron.analysis.compare.groups import Group
from tst_megatron.analysis.compare.output.folder import charts_of
from tst_megatron.analysis.compare.result import Findings
from tst_megatron.report import picture, zoomable
from tst_megatron.runs.links import LinkStart
from tst_megatron.runs.run import RecordedRun
from tst_megatron.statistics.interval import Interval


def test_the_mean_is_of_the_steps_that_all_seeds_have() -> None:
    group = baseline()
    cut = _without(group.runs[1], 100.0)
    mean = mean_of(Group("cut", (group.runs[0], cut), STEPS), "flops")
    assert 100e12 not in mean.xs
    assert mean.xs.size == cut.curve.steps.size
    first, second = group.runs
    assert mean.losses[-1] == pytest.approx((first.curve.losses[-1] + second.curve.losses[-1]) / 2)
    assert (mean.lows <= mean.losses).all()
    assert (mean.losses <= mean.highs).all()


def _without(run: RecordedRun, step: float) -> RecordedRun:
    return replace(run, curve=run.curve.at(run.curve.steps != step))


def test_the_legends_final_loss_is_the_groups_where_seeds_end_apart() -> None:
    group = baseline()
    ends = group.runs[0], _without(group.runs[1], float(STEPS))
    # A seed that was cut short does not stand for the group; of two that were, both do.
    mean = ends[0].curve.losses[-1]
    chart = loss_chart(Findings((Group("cut", ends, STEPS),), (), ()), FLOPS)
    assert chart is not None
    assert chart.legend == [f"cut: {mean:.3f}"]
    both = ends[1], _without(group.runs[0], float(STEPS))
    mean = np.mean([run.curve.losses[-1] for run in both])
    chart = loss_chart(Findings((Group("cut", both, STEPS),), (), ()), FLOPS)
    assert chart is not None
    assert chart.legend == [f"cut: {mean:.3f}"]


def test_the_arrow_goes_from_what_the_baseline_needed_to_what_the_candidate_needed() -> None:
    chart = loss_chart(findings(), GPU_HOURS)
    assert chart is not None
    (arrow,) = chart.arrows
    assert (arrow.start, arrow.end) == pytest.approx((1.8371 * 2, 2.0))
    assert arrow.y == 2.2871
    assert arrow.text == "1.87× fewer GPU hours"
    assert chart.x_range is not None
    assert chart.x_range[1] > arrow.start


def test_far_beyond_the_runs_the_arrow_is_cut_and_says_so() -> None:
    chart = loss_chart(findings(Interval(40.0, 20.0, None), extrapolated=True), FLOPS)
    assert chart is not None
    (arrow,) = chart.arrows
    assert arrow.start < 40 * STEPS
    assert "extrapolated" in arrow.text
    assert "further right" in arrow.text


def test_the_extrapolated_line_ends_at_the_crossing() -> None:
    chart = loss_chart(findings(extrapolated=True), FLOPS)
    assert chart is not None
    line = next(line for line in chart.lines if "extrapolated" in line.name)
    per, _ = FLOPS.unit(STEPS * 1e12)
    assert line.xs[-1] * per == pytest.approx(1837.1e12)
    assert line.ys[-1] == pytest.approx(2.2871)
    assert (np.diff(line.ys) < 0).all()
    without = loss_chart(findings(), FLOPS)
    assert without is not None
    assert not any("extrapolated" in line.name for line in without.lines)


def test_the_switch_is_marked_on_every_axis() -> None:
    for amount, at in ((FLOPS, SWITCH * 1e12), (DATA_TOKENS, SWITCH * 4 * 2048), (STEP, SWITCH)):
        chart = loss_chart(findings(), amount)
        assert chart is not None
        per, _ = amount.unit(1000 * at / SWITCH)
        rule = next(rule for rule in chart.rules if "bags of 4" in rule.text)
        assert rule.at * per == pytest.approx(at)


def test_equal_data_is_marked_where_it_is() -> None:
    chart = loss_chart(findings(), DATA_TOKENS)
    assert chart is not None
    assert any("equal data: no difference shown" in rule.text for rule in chart.rules)
    assert not chart.arrows


def test_equal_data_of_decays_that_are_not_alike_says_so() -> None:
    found = findings()
    (one,) = found.comparisons
    unlike = replace(one, equal_data=replace(one.equal_data, unlike="One has decayed"))
    chart = loss_chart(replace(found, comparisons=(unlike,)), DATA_TOKENS)
    assert chart is not None
    assert any("equal data: no difference shown, decays not alike" in r.text for r in chart.rules)


def test_what_no_run_told_has_no_chart() -> None:
    found = findings()
    runs = [
        replace(run, curve=replace(run.curve, flops=np.full(run.curve.steps.size, np.nan)))
        for run in found.baseline[0].runs
    ]
    alone = Findings((Group("baseline", tuple(runs), STEPS),), (), ())
    assert loss_chart(alone, FLOPS) is None
    assert loss_chart(alone, GPU_HOURS) is not None
    assert loss_chart(Findings((), (), ()), GPU_HOURS) is None
    assert "no run has one yet" in picture.svg(no_losses())
    assert switch_chart(alone) is None
    assert saving_chart(alone, STEP) is None
    assert difference_chart(alone) is None


def test_the_switch_close_up_keeps_losses_of_two_kinds_apart() -> None:
    chart = switch_chart(findings())
    assert chart is not None
    names = [line.name for line in chart.lines]
    assert "training loss on bags of 4" in names
    assert "training loss on single tokens" in names
    bags = next(line for line in chart.lines if "training loss on bags" in line.name)
    single = next(line for line in chart.lines if "on single" in line.name)
    assert bags.xs.max() <= SWITCH < single.xs.min()


def test_steps_without_a_bag_size_are_of_their_phase_in_the_close_up() -> None:
    found = findings()
    (run, *_) = found.candidate[0].runs
    facts = tuple({} if at % 2 == 0 else of for at, of in enumerate(run.steps.facts))
    apart = replace(run, steps=replace(run.steps, facts=facts))
    chart = switch_chart(replace(found, candidate=(replace(found.candidate[0], runs=(apart,)),)))
    assert chart is not None
    training = [line for line in chart.lines if line.name.startswith("training loss")]
    assert [line.name for line in training] == [
        "training loss on bags of 4",
        "training loss on single tokens",
    ]
    assert training[0].xs.max() == SWITCH


def test_the_headline_is_a_point_with_its_bar_and_1_a_line() -> None:
    chart = saving_chart(findings(extrapolated=True), STEP)
    assert chart is not None
    (dot,) = chart.dots
    assert (dot.x, dot.y, dot.low, dot.high) == (2.2871, 1.8371, 1.62, 2.04)
    assert "extrapolated" in dot.name
    assert [(rule.at, rule.across) for rule in chart.rules] == [(1.0, "y")]
    assert chart.x_range is not None
    assert chart.x_range[0] > chart.x_range[1]


def test_the_saving_of_gpu_hours_is_drawn_where_clocks_compare() -> None:
    found = findings()
    names = {chart.name: chart for chart in charts_of(found)}
    hours = names["saving-gpu-hours"]
    equal, saving = found.comparisons[0].equal_loss, found.comparisons[0].saving
    (dot,) = hours.dots
    assert Interval(dot.y, dot.low, dot.high) == equal.gpu_hours_ratio
    assert (hours.lines[0].ys == saving.gpu_hours_ratios).all()
    assert hours.y_label == "GPU hours: baseline ÷ candidate"
    apart = {chart.name: chart for chart in charts_of(replace(found, clocks_compare=False))}
    assert "saving-gpu-hours" not in apart
    assert "steps alone" in apart["saving"].caption
    assert "steps alone" not in names["saving"].caption


def test_extras_have_a_chart_each() -> None:
    assert [chart.name for chart in logged_charts(findings())] == [
        "grad-norm",
        "extra-load-balancing-loss",
    ]


def test_more_groups_than_colours_stay_in_the_tables() -> None:
    theirs = baseline()
    ours = tuple(superposed(f"bags of {s}") for s in range(2, 11))
    every = tuple(comparison(one, theirs, equal_loss(Interval(1.5, 1.2, 1.8))) for one in ours)
    found = Findings((theirs,), ours, every)
    assert len(shown(found)) == 7
    assert left_out(found) == 3
    assert len({one.colour for one in shown(found)}) == 7


def test_the_zoomable_chart_and_the_picture_hold_the_same() -> None:
    chart = loss_chart(findings(extrapolated=True), GPU_HOURS)
    assert chart is not None
    figure = zoomable.figure(chart)
    drawn = [trace for trace in figure["data"] if trace.get("fill") != "toself"]
    assert len(drawn) == len(chart.lines)
    assert sum(trace["showlegend"] for trace in drawn) == len({line.name for line in chart.lines})
    assert drawn[0]["y"] == pytest.approx(chart.lines[0].ys, rel=1e-6)
    svg = picture.svg(chart)
    assert chart.arrows[0].text.split("\n")[0] in svg
    for line in chart.lines:
        assert line.name in svg


def test_the_same_findings_give_the_same_picture() -> None:
    charts = [saving_chart(findings(), STEP), saving_chart(findings(), STEP)]
    one, other = (picture.svg(chart) for chart in charts if chart is not None)
    assert one == other


def test_links_of_every_kind_are_marked_by_their_names() -> None:
    """One that goes on as it is too, beside the stages' own marks; in words under the chart."""
    made = findings()
    group = made.candidate[0]
    ends = (0, SWITCH, STEPS // 2)
    links = tuple(map(LinkStart, ("small", "grown", "cooled"), ends))
    runs = (replace(group.runs[0], links=links), *group.runs[1:])
    candidate = replace(group, runs=runs)
    shown = replace(made, candidate=(candidate,), comparisons=())
    for chart in (loss_chart(shown, STEP), switch_chart(shown)):
        assert chart is not None
        found = [(rule.text, rule.at) for rule in chart.rules if rule.along]
        low, high = chart.x_range or (0, STEPS)
        wanted = zip(("small", "grown", "cooled"), ends, strict=True)
        assert found == [(name, end) for name, end in wanted if low <= end <= high]
        assert picture.svg(chart).count(">grown</text>") == 1
        notes = zoomable.figure(chart)["layout"]["annotations"]
        assert [note["text"] for note in notes if note.get("textangle") == -90] == [
            name for name, _ in found
        ]
    told = loss_chart(shown, STEP)
    assert told is not None
    assert f"where the links of {runs[0].name} begin" in told.caption
    without = loss_chart(made, STEP)
    assert without is not None
    assert not any(rule.along for rule in without.rules)
    assert "links" not in without.caption
