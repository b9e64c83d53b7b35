"""Whether two sides can be compared at all, and what a reader must know where they can.

The one idea: a comparison means nothing only where a fact that both sides tell differs: the model,
the tokenizer, the held-out text or the batch. What a side does not tell is taken to be the same,
and said.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import PurePath
from typing import Any, Literal

import numpy as np

from tst_megatron.analysis.compare.group_curve import diverged, runs_used, seed_of
from tst_megatron.analysis.compare.groups import is_superposed
from tst_megatron.analysis.compare.settings import flags_of
from tst_megatron.runs.run import Group, Run, is_same_run

Topic = Literal["model", "tokenizer", "held-out text", "batch"]
TOPICS: tuple[Topic, ...] = ("model", "tokenizer", "held-out text", "batch")
"""What has to be the same on both sides."""

_SHAPE = (
    "add_bias_linear",
    "add_qkv_bias",
    "ffn_hidden_size",
    "group_query_attention",
    "hidden_size",
    "hybrid_layer_pattern",
    "kv_channels",
    "kv_lora_rank",
    "moe_ffn_hidden_size",
    "moe_layer_freq",
    "moe_router_topk",
    "moe_shared_expert_intermediate_size",
    "mtp_num_layers",
    "multi_latent_attention",
    "normalization",
    "num_attention_heads",
    "num_experts",
    "num_layers",
    "num_query_groups",
    "position_embedding_type",
    "q_lora_rank",
    "qk_layernorm",
    "rotary_base",
    "rotary_percent",
    "swiglu",
    "untie_embeddings_and_output_weights",
)
_BATCH = ("global_batch_size", "rampup_batch_size", "seq_length", "step_batch_size_schedule")
_BECAUSE = {
    "model": "The models differ",
    "tokenizer": "The tokenizers differ, so a loss a token is not of the same thing",
    "held-out text": "The held-out losses are not of the same text",
    "batch": "The batches differ, so a step is not a step",
}
# Facts that say nothing more where both sides tell the one that they stand behind.
_STANDS_FOR = {
    "sha256": ("model file", "padded vocabulary"),
    "data sha256": ("data",),
}
_SHOWN_FACTS = 3
_SHOWN_HASH = 12

Difference = tuple[str, Any, Any]
"""(name of a fact, its value, the other's)."""


def reasons_against(baseline: Sequence[Group], tst: Sequence[Group]) -> list[str]:
    """What makes a comparison meaningless, a sentence each; empty where nothing does.

    Args:
        baseline: groups of one side.
        tst: groups of the other.
    """
    reasons = []
    for side, groups in (("baseline", baseline), ("TST side", tst)):
        all_runs = [run for found in groups for run in found.runs]
        if not any(map(_num_losses, all_runs)):
            paths = ", ".join(str(run.path) for run in all_runs)
            reasons.append(f"The {side} has no held-out loss in {paths}.")
        elif any(map(diverged, all_runs)) and not any(map(runs_used, groups)):
            steps = ", ".join(
                f"step {run.curve.steps[-1]:,.0f} of {run.path}"
                for run in filter(diverged, all_runs)
            )
            reasons.append(
                f"The {side} diverged at the end: its held-out loss is not finite at {steps}."
            )
    runs = [(found, run) for found in (*baseline, *tst) for run in found.runs]
    for topic in TOPICS:
        reasons += _first_difference(topic, runs)
    if all(map(_has_bags, baseline)) and not any(map(_has_bags, tst)):
        reasons.append(
            "The sides look swapped: the baseline saw bags and the TST side did not, so name the "
            "runs with bags after --with."
        )
    return reasons


def notes_on(baseline: Sequence[Group], tst: Sequence[Group]) -> list[str]:
    """What a reader of a comparison must know of the runs in it, a sentence each.

    Args:
        baseline: groups of one side.
        tst: groups of the other.
    """
    groups = [*baseline, *tst]
    notes = [note for found in groups for note in _notes_on_group(found)]
    notes += [
        f'The baseline "{found.name}" saw bags itself: the comparison is of two ways to use them.'
        for found in baseline
        if _has_bags(found)
    ]
    notes += [
        f'"{found.name}" saw no bags: the comparison is of two ordinary runs.'
        for found in tst
        if not _has_bags(found)
    ]
    for ours in (run for found in baseline for run in found.runs):
        for theirs in (run for found in tst for run in found.runs):
            if is_same_run(ours, theirs):
                notes.append(f"{ours.path} is on both sides: a run is compared with itself.")
    hardware = _hardware_difference([run for found in groups for run in found.runs])
    if hardware is not None:
        notes.append(
            f"The runs had different hardware ({hardware}): their hours say more of that than of "
            "the method, while steps, FLOPs and losses compare."
        )
    return notes


def clocks_compare(baseline: Sequence[Group], tst: Sequence[Group]) -> bool:
    """Whether wall-clock and GPU hours mean something: no run is known to differ in hardware.

    Args:
        baseline: groups of one side.
        tst: groups of the other.
    """
    runs = [run for found in (*baseline, *tst) for run in found.runs]
    return _hardware_difference(runs) is None


def differences(topic: Topic, run: Run, other: Run) -> list[Difference]:
    """The facts of a topic that both runs tell and that differ.

    Args:
        topic: one of `TOPICS`.
        run: one.
        other: the other.
    """
    ours, theirs = facts(topic, run), facts(topic, other)
    both = [name for name in ours if name in theirs]
    needless = {behind for name in both for behind in _STANDS_FOR.get(name, ())}
    return [
        (name, ours[name], theirs[name])
        for name in both
        if name not in needless and ours[name] != theirs[name]
    ]


def facts(topic: Topic, run: Run) -> dict[str, Any]:
    """What a run tells of a topic, by name; what it does not tell is not there."""
    flags = flags_of(run.header)
    if topic == "model":
        return _model(run.header, flags)
    if topic == "tokenizer":
        return _tokenizer(run.header, flags)
    if topic == "held-out text":
        return _held_out_text(run.header, flags)
    return {name: flags[name] for name in _BATCH if name in flags}


def _model(header: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    shape = {name: flags[name] for name in _SHAPE if name in flags}
    parameters = (header.get("parameters") or {}).get("total")
    # How far a vocabulary is padded goes by the layout, and parameters with it.
    padded = flags.get("padded_vocab_size")
    if parameters is None:
        return shape
    return shape | {f"parameters with {padded} in the vocabulary": parameters}


def _tokenizer(header: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    told = header.get("tokenizer") or {}
    model = told.get("model", flags.get("tokenizer_model"))
    found = {
        "type": told.get("type", flags.get("tokenizer_type")),
        "sha256": told.get("sha256"),
        "model file": None if model is None else PurePath(str(model)).name,
        "padded vocabulary": told.get("padded_vocab_size", flags.get("padded_vocab_size")),
    }
    return {name: value for name, value in found.items() if value is not None}


def _held_out_text(header: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    own = flags.get("valid_data_path")
    places = own or flags.get("data_path") or []
    places = [str(place) for place in places] if isinstance(places, list | tuple) else [str(places)]
    hashes = [
        place.get("manifest_sha256")
        for place in header.get("data") or []
        if not own or str(place.get("path")) in places
    ]
    # With full validation Megatron puts the number that it takes in place of this one.
    iters = None if flags.get("full_validation") else flags.get("eval_iters")
    size = flags.get("eval_global_batch_size")
    size = flags.get("global_batch_size") if size is None else size
    found = {
        "data sha256": hashes if hashes and None not in hashes else None,
        "data": [PurePath(place).name for place in places] or None,
        "split": None if own else flags.get("split"),
        "sequences evaluated": _product(iters, size),
        "full_validation": flags.get("full_validation"),
        "seq_length": flags.get("seq_length"),
        "fixed_validation": flags.get("fixed_validation"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _product(one: Any, other: Any) -> int | None:
    return one * other if isinstance(one, int) and isinstance(other, int) else None


def _first_difference(topic: Topic, runs: Sequence[tuple[Group, Run]]) -> Iterator[str]:
    """The first two runs that differ in a topic, in a sentence."""
    for (group, run), (other_group, other) in combinations(runs, 2):
        found = differences(topic, run, other)
        if found:
            told = ", ".join(
                f'{name} is {_shown(ours)} in "{group.name}" and {_shown(theirs)} in '
                f'"{other_group.name}"'
                for name, ours, theirs in found[:_SHOWN_FACTS]
            )
            more = len(found) - _SHOWN_FACTS
            yield f"{_BECAUSE[topic]}: {told}{f' and {more} more' if more > 0 else ''}."
            return


def _notes_on_group(found: Group) -> Iterator[str]:
    untold = [topic for topic in TOPICS if not any(facts(topic, run) for run in found.runs)]
    if untold:
        *most, last = untold
        listed = f"{', '.join(most)} or {last}" if most else last
        yield f'"{found.name}" does not tell its {listed}: taken to be the same as the others\'.'
    seeds = Counter(seed_of(run) for run in found.runs)
    for seed, times in seeds.items():
        if seed is not None and times > 1:
            yield (
                f'{times} runs of "{found.name}" have seed {seed}: each counts as a sample of its '
                "own."
            )
    for run in found.runs:
        if _num_losses(run) == 1:
            yield f"{run.name} has a single held-out loss: nothing along its run can be compared."
        done = int(max([0, *run.steps.steps[-1:], *run.curve.steps[-1:]]))
        if done < run.num_steps:
            yield f"{run.name} ended at step {done:,} of {run.num_steps:,}."


def _num_losses(run: Run) -> int:
    """Held-out losses that are numbers."""
    return int(np.isfinite(run.curve.losses).sum())


def _has_bags(found: Group) -> bool:
    return any(map(is_superposed, found.runs))


def _hardware_difference(runs: Sequence[Run]) -> str | None:
    """The first differing fact in words; None without one."""
    for name, words in (("device", "{}"), ("world_size", "{} ranks")):
        told = dict.fromkeys(
            str(run.header[name]) for run in runs if run.header.get(name) is not None
        )
        if len(told) > 1:
            return " and ".join(words.format(value) for value in told)
    return None


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_shown, value))
    if isinstance(value, str) and len(value) == 64:
        return value[:_SHOWN_HASH]
    return f"{value:,}" if type(value) is int else str(value)
