"""Runs of equal settings but for the seed, and what sets one such group apart from another.

The one idea: two runs are of one group unless a setting that both tell differs; so a source that
tells little joins in, and nothing that is known to differ is averaged over.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tst_megatron.analysis.compare.settings import (
    compare_settings,
    known_differences,
    same_content,
    settings_of,
)
from tst_megatron.runs.run import Group, Run

Side = Literal["baseline", "TST"]

# Where and when a run was made, and how often it was looked at: not what it is.
_NOT_THE_METHOD = (
    "async_",
    "ckpt_",
    "device",
    "eval_interval",
    "exit_",
    "flight_recorder_",
    "git commit",
    "host",
    "inprocess_",
    "log_",
    "num_workers",
    "one_logger_",
    "profile",
    "save_interval",
    "seed",
    "straggler_",
    "tensorboard_",
    "timing_",
    "tst_allow_",
    "version of ",
    "wandb_",
)
# How the same numbers are worked out: this moves the clock, and losses by rounding alone.
_HOW_IT_IS_COMPUTED = (
    "context_parallel_size",
    "data_parallel_size",
    "distributed_",
    "expert_model_parallel_size",
    "expert_tensor_parallel_size",
    "micro_batch_size",
    "num_layers_per_virtual_pipeline_stage",
    "overlap_",
    "pipeline_model_parallel_",
    "recompute_",
    "sequence_parallel",
    "tensor_model_parallel_size",
    "tp_comm_",
    "use_distributed_optimizer",
    "virtual_pipeline_model_parallel_size",
    "world_size",
)
# What a schedule in stages says already, in whichever flags it was written.
_OF_THE_SCHEDULE = frozenset(
    {
        "bags (size × samples)",
        "tst_bag_boundary",
        "tst_bag_size",
        "tst_bag_weights",
        "tst_objective",
        "tst_schedule",
        "tst_step_ratio",
        "tst_superpose",
    }
)
# These follow from the length of a run.
_OF_THE_LENGTH = frozenset(
    {
        "lr_decay_iters",
        "lr_decay_samples",
        "lr_warmup_iters",
        "lr_warmup_samples",
        "lr_wsd_decay_iters",
        "lr_wsd_decay_samples",
        "train_iters",
        "train_samples",
    }
)
# More are in the page's table of settings.
_SHOWN = 6
_WORDS = {
    "lr": "learning rate",
    "min_lr": "lowest learning rate",
    "global_batch_size": "batch of",
    "seq_length": "sequences of",
    "num_layers": "layers",
    "hidden_size": "hidden size",
    "num_experts": "experts",
}
_METHOD_WORDS = {
    "superpose": {"input": "input only", "output": "output only"},
    "objective": {"mce-alt": "mce-alt"},
    "bag_boundary": {"document": "within documents"},
}


def group(runs: Sequence[Run], side: Side) -> list[Group]:
    """Put runs of equal settings but for the seed together.

    Args:
        runs: of one side, of any lengths.
        side: what an ordinary run is called depends on it.

    Returns:
        Groups in the order of their first runs, with names that tell them apart.
    """
    groups: list[list[Run]] = []
    for run in runs:
        # Of every run in it: two that a third is like, as it tells little, may differ.
        equals = next(
            (found for found in groups if all(_is_of(run, other) for other in found)), None
        )
        if equals is None:
            groups.append([run])
        else:
            equals.append(run)
    names = _names([found[0] for found in groups], side)
    return [
        Group(name, tuple(found), found[0].num_steps)
        for name, found in zip(names, groups, strict=True)
    ]


def settings_apart(one: Group, other: Group) -> list[str]:
    """Names of the settings that both groups tell and that set them apart.

    Of two lengths, what follows from the length, such as where the decay starts, sets nothing
    apart.
    """
    ours, theirs = one.runs[0], other.runs[0]
    names = _differing(ours, theirs)
    if one.num_steps != other.num_steps:
        names = [name for name in names if name not in _OF_THE_LENGTH]
    bags = ["bags"] if schedule_words(ours) != schedule_words(theirs) else []
    return [*bags, *names]


def settings_notes(baseline: Run, tst: Run) -> list[str]:
    """Which settings differ besides superposition, in a sentence; none where none does.

    Of runs of two lengths, what follows from the length is not told.
    """
    found = compare_settings(baseline, tst)
    values = {name: (ours, theirs) for name, ours, theirs in found.differing}
    both = settings_of(baseline.header), settings_of(tst.header)
    names = [
        name
        for name in found.beyond_superposition
        if not name.startswith(_NOT_THE_METHOD)
        and not (baseline.num_steps != tst.num_steps and name in _OF_THE_LENGTH)
        and not (all(name in side for side in both) and same_content(name, *both))
    ]
    if not names:
        return []
    told = [
        name + ("" if "/" in "".join(values[name]) else f" ({' / '.join(values[name])})")
        for name in names[:_SHOWN]
    ]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [
        f"Besides superposition these settings differ (baseline / TST): {', '.join(told)}{more}. "
        "What they do is in every figure."
    ]


def is_superposed(run: Run) -> bool:
    """Whether any step of a run sees or predicts bags."""
    return bool(_stages(run))


def schedule_words(run: Run) -> str:
    """The bags of a run and their shares of its steps, such as ``bags of 4 for 25 %``.

    Empty for an ordinary run.
    """
    stages = _stages(run)
    if not stages:
        return ""
    method = run.header.get("superposition") or {}
    flag = _auto(run)
    if flag is not None:
        words = [f"bags by measurement ({flag})"]
    else:
        parts = [
            f"of {bag_size}" if share is None else f"of {bag_size} for {_percent(share)}"
            for bag_size, share in stages
        ]
        words = [f"bags {' and '.join(parts)}"]
    for name, of_value in _METHOD_WORDS.items():
        if method.get(name) in of_value:
            words.append(of_value[method[name]])
    if method.get("bag_weights", "uniform") != "uniform":
        words.append(f"{method['bag_weights']} weights")
    return ", ".join(words)


def _is_of(run: Run, other: Run) -> bool:
    if run.num_steps != other.num_steps or schedule_words(run) != schedule_words(other):
        return False
    return not _differing(run, other)


def _differing(run: Run, other: Run) -> list[str]:
    """Settings that set runs of one schedule apart."""
    one, two = settings_of(run.header), settings_of(other.header)
    return [
        name
        for name in known_differences(one, two)
        if name not in _OF_THE_SCHEDULE
        and not name.startswith((*_NOT_THE_METHOD, *_HOW_IT_IS_COMPUTED))
        and not same_content(name, one, two)
    ]


def _stages(run: Run) -> list[tuple[int, float | None]]:
    """(bag size, share of the steps) of the superposed stages; the share None if not known."""
    if "superposition" not in run.header:
        return [
            (phase.bag_size, (phase.last_step - phase.first_step + 1) / run.num_steps)
            for phase in run.phases
            if phase.bag_size > 1
        ]
    stages = (run.header["superposition"] or {}).get("stages", [])
    batch_size = (run.header.get("flags") or {}).get("global_batch_size")
    total = run.num_steps * batch_size if isinstance(batch_size, int) else 0
    return [(size, samples / total if total else None) for size, samples in stages if size > 1]


def _auto(run: Run) -> str | None:
    """The flag of a switch that is decided by measurement, so at another step in every run."""
    flag = (run.header.get("flags") or {}).get("tst_schedule")
    return flag if isinstance(flag, str) and flag.startswith("auto") else None


def _percent(share: float) -> str:
    return f"{100 * share:.1f}".removesuffix(".0") + " %"


def _names(firsts: Sequence[Run], side: Side) -> list[str]:
    """Names of groups, each by one of its runs."""
    ordinary = "baseline" if side == "baseline" else "ordinary"
    names = [schedule_words(run) or ordinary for run in firsts]
    if len({run.num_steps for run in firsts}) > 1:
        names = [
            f"{name} of {run.num_steps:,} steps" for name, run in zip(names, firsts, strict=True)
        ]
    others = [
        [run for run, of_run in zip(firsts, names, strict=True) if of_run == name] for name in names
    ]
    full = [
        ", ".join([name, *_apart(run, alike)])
        for name, run, alike in zip(names, firsts, others, strict=True)
    ]
    # Where runs of one name differ only in what some of them do not tell.
    return [
        f"{name} ({run.name})" if full.count(name) > 1 else name
        for name, run in zip(full, firsts, strict=True)
    ]


def _apart(run: Run, alike: Sequence[Run]) -> list[str]:
    """What sets a run apart from others of its schedule and length, in words."""
    recipe = _recipe(run)
    words = [] if recipe is None or {_recipe(other) for other in alike} == {recipe} else [recipe]
    settings = settings_of(run.header)
    names = {
        name
        for other in alike
        if not words or _recipe(other) == recipe
        for name in _differing(run, other)
    }
    names -= _OF_THE_LENGTH
    return words + [f"{_WORDS.get(name, name)} {_value(settings[name])}" for name in sorted(names)]


def _recipe(run: Run) -> str | None:
    recipe: Mapping[str, Any] = run.header.get("recipe") or {}
    return recipe.get("name")


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return f"{value:,}" if type(value) is int else str(value)
