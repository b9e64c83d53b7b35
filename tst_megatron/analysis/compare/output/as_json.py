"""The figures of a comparison as JSON has them; the tables show the same ones.

The one idea: the top level is the best candidate group's, so that a script reads
``equal_loss.gpu_hours_ratio.value`` and is done; ``groups`` has the same of every group.
"""

import json
from dataclasses import asdict
from typing import Any

from tst_megatron.analysis.compare.amounts import USED
from tst_megatron.analysis.compare.group_curve import final
from tst_megatron.analysis.compare.groups import Group
from tst_megatron.analysis.compare.rates import edge, parabola
from tst_megatron.analysis.compare.result import (
    Comparison,
    EqualData,
    EqualFlops,
    EqualLoss,
    EqualSteps,
    Findings,
    Needed,
    Prices,
    ScoresAt,
)
from tst_megatron.analysis.compare.scores import BY_SEED, PAIRED
from tst_megatron.analysis.compare.sentences import first_sentences, headline, notes
from tst_megatron.analysis.compare.stories import facts_in_full
from tst_megatron.analysis.compare.tables import last, latest, share_of_other_time
from tst_megatron.runs.run import RecordedRun
from tst_megatron.statistics.interval import Interval
from tst_megatron.strict_json import finite

_RATIOS = ("step_ratio", "flops_ratio", "wall_clock_ratio", "gpu_hours_ratio")


def as_json(findings: Findings) -> dict[str, Any]:
    """Every figure, ready for strict JSON: what is not a number is None.

    Keys: those of `_comparison` for the candidate group with the lowest final loss, ``groups`` with
    the same for every candidate group, ``runs``, ``loss_unit``, ``steps_compare``,
    ``clocks_compare``, ``forced``, ``reasons`` and ``notes``.
    """
    groups = [_comparison(one, findings) for one in findings.comparisons]
    found: dict[str, Any] = finite(
        {
            **(groups[0] if groups else {}),
            "groups": groups,
            "runs": [_run(*one) for one in findings.runs()],
            "loss_unit": str(findings.unit),
            "steps_compare": findings.steps_compare,
            "clocks_compare": findings.clocks_compare,
            "forced": bool(findings.reasons),
            "reasons": list(findings.reasons),
            "notes": list(findings.notes),
            "price_per_gpu_hour": findings.prices.per_gpu_hour,
            "watts": findings.prices.watts,
        }
    )
    return found


def json_text(findings: Findings) -> str:
    """Those figures as text."""
    return _text(as_json(findings))


def text_so_far(findings: Findings) -> str:
    """Likewise of runs of which a side may be missing or not at its end (`compare_so_far`).

    Keys besides those of `as_json`: ``headline`` and ``notes``, as the page has them; ``baseline``
    and ``candidate``, the first run of each as in ``runs``, or None; ``partial``, whether one of
    them is missing, was cut short or has no final loss. ``equal_loss`` and ``equal_flops`` are
    there without a comparison too; what cannot be told in them is None.
    """
    runs = {side: (group, run) for side, group, run in reversed([*findings.runs()])}
    whole = [_is_whole(run) for _, run in runs.values()]
    told = {
        "equal_loss": _equal_loss(EqualLoss(), findings.prices),
        "equal_flops": _difference(Interval()),
        **as_json(findings),
        "headline": first_sentences(findings),
        "notes": notes(findings),
        **{
            side: None if side not in runs else _run_so_far(side, *runs[side])
            for side in ("baseline", "candidate")
        },
        "partial": len(whole) < 2 or not all(whole),
    }
    return _text(finite(told))


def _text(found: dict[str, Any]) -> str:
    return json.dumps(found, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _is_whole(run: RecordedRun) -> bool:
    """It did every step that it was to do, and has a final loss."""
    return final(run) is not None and (latest(run, "steps") or 0) >= run.num_steps


def _run_so_far(side: str, group: Group, run: RecordedRun) -> dict[str, Any]:
    """One that has logged nothing yet has used nothing."""
    found = _run(side, group, run)
    if run.steps.steps.size or run.curve.steps.size:
        return found
    return found | dict.fromkeys(USED, 0)


def _comparison(one: Comparison, findings: Findings) -> dict[str, Any]:
    prices = findings.prices
    return {
        "name": one.candidate.name,
        "baselines": [group.name for group in one.baseline],
        "headline": headline(one, findings.clocks_compare),
        "equal_loss": _equal_loss(one.equal_loss, prices),
        "equal_loss_along": one.equal_loss_along and _equal_loss(one.equal_loss_along, prices),
        "equal_loss_at_baseline": one.equal_loss_at_baseline
        and _equal_loss(one.equal_loss_at_baseline, prices),
        "equal_flops": _equal_flops(one.equal_flops),
        "equal_steps": one.equal_steps and _equal_steps(one.equal_steps),
        "equal_data": _equal_data(one.equal_data),
        "scores": [_scores(scores) for scores in one.scores],
        "saving": {name: values.tolist() for name, values in vars(one.saving).items()},
        "fit": None if one.fit is None else asdict(one.fit),
        "confidence": one.confidence,
        "uncertainty": one.uncertainty,
        "one_seed": one.one_seed,
        "learning_rates": _learning_rates(one),
        "comparison_notes": list(one.notes),
    }


def _learning_rates(one: Comparison) -> dict[str, Any]:
    return {
        "baseline": [_rates(group) for group in one.baseline],
        "candidate": _rates(one.candidate),
        "unconfirmed": bool(one.unconfirmed),
    }


def _rates(group: Group) -> dict[str, Any]:
    """Of a group: the rate that it was compared at, and how that came about."""
    sweep = group.sweep
    if sweep is None:
        return {"name": group.name, "steps": group.num_steps, "rate": group.rate, "tried": []}
    optimum = parabola(sweep)
    return {
        "name": group.name,
        "steps": group.num_steps,
        "rate": sweep.best.rate,
        "tried": [
            {"rate": rate, "loss": loss, "runs": [run.name for run in of.runs]}
            for rate, loss, of in zip(sweep.rates, sweep.losses, sweep.groups, strict=True)
        ],
        "seeds": list(sweep.seeds),
        "chosen_on": list(sweep.best.chosen_on),
        "confirmed_on": list(sweep.best.confirmed_on),
        "edge": edge(sweep),
        "optimum": optimum and optimum.told(),
    }


def _equal_loss(equal: EqualLoss, prices: Prices) -> dict[str, Any]:
    ratios = {name: getattr(equal, name) for name in _RATIOS}
    return {
        "loss": asdict(equal.loss),
        **{name: asdict(found) for name, found in ratios.items()},
        "level": equal.level,
        "reached": equal.reached,
        "extrapolated": equal.extrapolated,
        "whole_runs": equal.whole_runs,
        "where": equal.where,
        "rough_guide": equal.rough,
        "at_least": equal.at_least,
        "by_clock_alone": equal.by_clock_alone,
        "unlike_decays": bool(equal.unlike),
        "rate_unconfirmed": bool(equal.unconfirmed),
        "no_difference_shown": [
            name for name, found in ratios.items() if found.value is not None and found.holds(1)
        ],
        "needed": {
            "baseline": _needed(equal.baseline, prices),
            "candidate": _needed(equal.candidate, prices),
        },
    }


def _needed(needed: Needed, prices: Prices) -> dict[str, Any]:
    found = asdict(needed)
    if prices.per_gpu_hour is not None:
        found["cost"] = asdict(prices.cost(needed.gpu_hours))
    if prices.watts is not None:
        found["energy_kwh"] = asdict(prices.energy_kwh(needed.gpu_hours))
    return found


def _equal_flops(found: EqualFlops) -> dict[str, Any]:
    return {
        **_difference(found.loss_difference),
        "flops": found.flops,
        "at_end": found.at_end,
        "unlike_decays": bool(found.unlike),
        "rate_unconfirmed": bool(found.unconfirmed),
        "along": {
            "flops": found.along.tolist(),
            "loss_difference": found.differences.tolist(),
            "low": found.lows.tolist(),
            "high": found.highs.tolist(),
        },
    }


def _equal_steps(found: EqualSteps) -> dict[str, Any]:
    return {
        **_difference(found.loss_difference),
        "steps": found.steps,
        "at_end": found.at_end,
        "unlike_decays": bool(found.unlike),
        "rate_unconfirmed": bool(found.unconfirmed),
    }


def _equal_data(found: EqualData) -> dict[str, Any]:
    return {
        **_difference(found.loss_difference),
        "data_tokens": found.data_tokens,
        "unlike_decays": bool(found.unlike),
        "rate_unconfirmed": bool(found.unconfirmed),
    }


def _scores(found: ScoresAt) -> dict[str, Any]:
    return {
        "at": found.place,
        "amount": found.amount,
        "at_end": found.at_end,
        "unlike_decays": bool(found.unlike),
        "rate_unconfirmed": bool(found.unconfirmed),
        "rows": [
            {
                "task": row.task,
                "metric": row.metric,
                "higher_is_better": row.higher_is_better,
                "chance": row.chance,
                "baseline": asdict(row.baseline),
                "candidate": asdict(row.candidate),
                "difference": asdict(row.difference),
                "no_difference_shown": row.difference.holds(0),
                "paired_by_item": PAIRED in row.how,
                "paired_by_seed": BY_SEED in row.how,
            }
            for row in found.rows
        ],
    }


def _difference(found: Interval) -> dict[str, Any]:
    return {
        "loss_difference": found.value,
        "low": found.low,
        "high": found.high,
        "no_difference_shown": found.value is not None and found.holds(0),
    }


def _run(side: str, group: Group, run: RecordedRun) -> dict[str, Any]:
    return {
        "side": side,
        "group": group.name,
        "name": run.name,
        "source": run.source,
        "run_id": run.header.get("run_id"),
        "seed": run.header.get("seed"),
        **{field: latest(run, field) for field in USED},
        "planned_steps": run.num_steps,
        "share_of_other_time": share_of_other_time(run),
        "final_loss": final(run),
        "final_loss_stderr": last(run.curve.stderrs[-1:]),
        "phases": [
            {
                "stage": span.index,
                **facts_in_full(span),
                "first_step": span.first_step,
                "last_step": span.last_step,
            }
            for span in run.stages
        ],
        "notes": list(run.notes),
    }
