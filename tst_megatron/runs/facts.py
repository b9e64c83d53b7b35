"""What a header tells of a run, model, tokenizer, held-out text, batch, schedule and so on.

The one idea: a header has a fact where its writer had it (in a field of its own, or among
Megatron's arguments), and readers want it by what it is of. What is not told is not there.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import PurePath
from typing import Any, Literal

from tst_megatron.runs.flag_roles import Role
from tst_megatron.runs.stages import Stage

Topic = Literal["model", "tokenizer", "held-out text", "batch"]
TOPICS: tuple[Topic, ...] = ("model", "tokenizer", "held-out text", "batch")
"""What a loss and a step are of."""

Difference = tuple[str, Any, Any]
"""(name of a fact, its value, the other's)."""

_DECAYING_FROM_WARMUP = ("cosine", "linear", "inverse-square-root")
_HARDWARE = ("device", "world_size")
# Facts that say nothing more where both sides tell the one that they stand behind.
_STANDS_FOR = {
    "sha256": ("padded vocabulary",),
    "data sha256": ("data",),
}


@dataclass(frozen=True)
class MethodFacts:
    """What a header tells of a method.

    Attributes:
        name: of the method.
        stages: the run's as the method alone has them; empty where they are not told.
        facts: its settings.
    """

    name: str
    stages: tuple[Stage, ...]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Parent:
    """What was trained for a run before it: one that it started from, or a model behind its text.

    As ``parents`` of a header have it (`asdict`).

    Attributes:
        ledger: its path; None where it has none.
        step: of its checkpoint that was started from.
        flops: spent up to there, by its own parents too; None where not known.
        gpu_hours: likewise.
        data_tokens: likewise, of the run's own tokenizer.
        what: in words, where it is no run that this one started from.
    """

    ledger: str | None
    step: int
    flops: float | None = None
    gpu_hours: float | None = None
    data_tokens: float | None = None
    what: str | None = None


@dataclass(frozen=True)
class HeldOut:
    """The text of a run's validation split, as ``held_out`` of a header has it.

    Attributes:
        sha256: equal for two tokenizers' runs that held out the same documents of the same files.
        documents: in it.
        tokens: of it, by the run's tokenizer.
        bytes: of it; None where they are not known exactly.
        corpora: that it is made of.
        is_whole: every validation goes through all of it; through some of it twice, where
            data-parallel ranks do not have as many sequences each.
        is_of_all: every start whose validations are kept held out this text, as it does.
        ranks: data-parallel ones that share out a validation; the most of all these starts.
    """

    sha256: str
    documents: int
    tokens: int
    bytes: int | None
    corpora: int
    is_whole: bool
    is_of_all: bool
    ranks: int


@dataclass(frozen=True)
class Facts:
    """Of one run.

    Attributes:
        topics: by topic, its facts by name; what both of two runs tell must not differ for their
            losses to mean the same.
        hardware: ``device`` and ``world_size``.
        seed: as its header or its arguments have it.
        recipe: its name.
        methods: that it was trained by; None where its source does not tell.
        parents: what was trained for it before, with what was spent there.
        planned_steps: steps of a whole run; None if its arguments do not say.
        decay_start: the step after which the learning rate decays at the end; None likewise.
        batch_size: sequences of a step; None where unknown.
        name_of_untold_tokenizer: what the tokenizer's files are called, where it is not told what
            they hold; None where that is told, or not even the name is.
        held_out: the text that its losses are of; None where it is not told.
        flags: Megatron's arguments, none of which depends on when the header was written.
        settings: all that a run was trained with under one set of names, without the bookkeeping:
            flags by their names, and ``version of NAME``, ``device``, ``host``, ``world_size``,
            ``seed``, ``git commit``, ``data sha256`` and ``tokenizer sha256``.
    """

    topics: Mapping[Topic, Mapping[str, Any]]
    hardware: Mapping[str, Any]
    seed: Any
    recipe: str | None
    methods: tuple[MethodFacts, ...] | None
    parents: tuple[Parent, ...]
    planned_steps: int | None
    decay_start: int | None
    batch_size: int | None
    name_of_untold_tokenizer: str | None
    held_out: HeldOut | None
    flags: Mapping[str, Any]
    settings: Mapping[str, Any]


def facts_of(header: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]] = ()) -> Facts:
    """Read a header of schema 3.

    Args:
        header: of a ledger, or what another source tells of one.
        earlier: headers of starts before it whose validations are kept.
    """
    flags = _flags(header)
    seed = header.get("seed")
    size = flags.get("global_batch_size")
    return Facts(
        topics={
            "model": _model(header, flags),
            "tokenizer": _tokenizer(header, flags),
            "held-out text": _held_out_text(header, flags),
            "batch": {name: flags[name] for name in Role.BATCH.value if name in flags},
        },
        hardware={name: header[name] for name in _HARDWARE if header.get(name) is not None},
        seed=flags.get("seed") if seed is None else seed,
        recipe=(header.get("recipe") or {}).get("name"),
        methods=_methods(header),
        parents=tuple(
            Parent(**{field.name: told.get(field.name) for field in fields(Parent)})
            for told in header.get("parents") or ()
        ),
        planned_steps=_steps(flags, "train_iters", "train_samples"),
        decay_start=_decay_start(flags),
        batch_size=size if isinstance(size, int) and size > 0 else None,
        name_of_untold_tokenizer=_name_of_untold_tokenizer(header, flags),
        held_out=_held_out(header, earlier),
        flags=flags,
        settings=_settings(header, flags),
    )


def differences(topic: Topic, one: Facts, other: Facts) -> list[Difference]:
    """The facts of a topic that both runs tell and that differ.

    Args:
        topic: one of `TOPICS`.
        one: of a run.
        other: of the other.
    """
    return differences_of(one.topics[topic], other.topics[topic])


def differences_of(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[Difference]:
    """Facts of one topic that both sides tell and that differ."""
    both = [name for name in ours if name in theirs]
    needless = {behind for name in both for behind in _STANDS_FOR.get(name, ())}
    return [
        (name, ours[name], theirs[name])
        for name in both
        if name not in needless and ours[name] != theirs[name]
    ]


def batch_size_changes(flags: Mapping[str, Any]) -> bool:
    """Whether a run's batch grows on the way; older Megatrons ramped it up, newer ones step it."""
    return bool(flags.get("rampup_batch_size") or flags.get("step_batch_size_schedule"))


def _flags(header: Mapping[str, Any]) -> dict[str, Any]:
    flags = dict(header.get("flags") or {})
    # Megatron completes this one after its other arguments.
    if flags.get("group_query_attention") is False and "num_attention_heads" in flags:
        flags["num_query_groups"] = flags["num_attention_heads"]
    return flags


def _methods(header: Mapping[str, Any]) -> tuple[MethodFacts, ...] | None:
    told = header.get("methods")
    if told is None:
        return None
    return tuple(
        MethodFacts(
            method["name"],
            tuple(map(Stage.from_json, method.get("stages") or ())),
            method.get("facts") or {},
        )
        for method in told
    )


def _settings(header: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    hashes = [place.get("manifest_sha256") for place in header.get("data") or []]
    found = {
        **{name: value for name, value in flags.items() if not Role.BOOKKEEPING.has(name)},
        **{f"version of {name}": of for name, of in (header.get("versions") or {}).items()},
        **{name: header[name] for name in ("device", "host", "world_size") if name in header},
        "git commit": (header.get("git") or {}).get("commit"),
        "data sha256": None if None in hashes else hashes or None,
        "tokenizer sha256": (header.get("tokenizer") or {}).get("sha256"),
        "seed": header.get("seed", flags.get("seed")),
    }
    return {name: value for name, value in found.items() if value is not None}


def _model(header: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    shape = _by_block({name: flags[name] for name in Role.MODEL.value if name in flags})
    parameters = (header.get("parameters") or {}).get("total")
    # How far a vocabulary is padded goes by the layout, and parameters with it.
    padded = flags.get("padded_vocab_size")
    if parameters is None:
        return shape
    return shape | {f"parameters with {padded} in the vocabulary": parameters}


def _by_block(shape: dict[str, Any]) -> dict[str, Any]:
    """A model of blocks in one spelling: a HybridModel that is the twin of a GPTModel computes the
    same (docs/checkpoints.md), and which blocks have experts can be said in several ways."""
    found = dict(shape)
    pattern = str(shape.get("hybrid_layer_pattern") or "").replace("|", "")
    experts: Any = shape.get("moe_layer_freq")
    if re.fullmatch(r"(\*[-E])+", pattern):
        experts = [int(kind == "E") for kind in pattern[1::2]]
        found |= {"num_layers": len(experts)}
        found.pop("hybrid_layer_pattern")
        if not any(experts) and "num_experts" in found:
            found["num_experts"] = None
    elif isinstance(experts, int) and experts > 0 and isinstance(shape.get("num_layers"), int):
        experts = [int(layer % experts == 0) for layer in range(shape["num_layers"])]
    if not found.get("num_experts", True):
        found.pop("moe_layer_freq", None)  # It says nothing of a dense model.
    elif experts is not None:
        found["moe_layer_freq"] = list(experts) if isinstance(experts, tuple) else experts
    return found


def _tokenizer(header: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    told = header.get("tokenizer") or {}
    # Its files may be called anything.
    found = {
        "type": told.get("type", flags.get("tokenizer_type")),
        "sha256": told.get("sha256"),
        "padded vocabulary": told.get("padded_vocab_size", flags.get("padded_vocab_size")),
    }
    return {name: value for name, value in found.items() if value is not None}


def _name_of_untold_tokenizer(header: Mapping[str, Any], flags: Mapping[str, Any]) -> str | None:
    told = header.get("tokenizer") or {}
    paths = [told.get("model"), *(flags.get(name) for name in Role.TOKENIZER.value)]
    model = next((path for path in paths if path is not None), None)
    return None if told.get("sha256") or model is None else PurePath(str(model)).name


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
        # Megatron cuts mock data as it pleases.
        "split": None if own or flags.get("mock_data") else flags.get("split"),
        "mock_data": flags.get("mock_data"),
        "sequences evaluated": _product(iters, size),
        "full_validation": flags.get("full_validation"),
        "seq_length": flags.get("seq_length"),
        "fixed_validation": flags.get("fixed_validation"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _held_out(header: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]]) -> HeldOut | None:
    told = header.get("held_out") or {}
    counts = [told.get(name) for name in ("documents", "tokens", "corpora")]
    if not isinstance(told.get("sha256"), str) or not all(map(_is_count, counts)):
        return None
    text_bytes = told.get("bytes")
    starts = (header, *earlier)
    hashes = {(start.get("held_out") or {}).get("sha256") for start in starts}
    flags = [start.get("flags") or {} for start in starts]
    ranks = [of.get("data_parallel_size") for of in flags]
    return HeldOut(
        told["sha256"],
        told["documents"],
        told["tokens"],
        text_bytes if _is_count(text_bytes) else None,
        told["corpora"],
        all(of.get("full_validation") for of in flags),
        len(hashes) == 1,
        max([1, *(number for number in ranks if isinstance(number, int))]),
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _product(one: Any, other: Any) -> int | None:
    return one * other if isinstance(one, int) and isinstance(other, int) else None


def _decay_start(flags: Mapping[str, Any]) -> int | None:
    """In Megatron's own arithmetic.

    With warmup-stable-decay, where the decay starts; with cosine and the like the end of the
    warm-up, as all the rest is decay; with a constant rate the end of the run.
    """
    style = flags.get("lr_decay_style")
    train = _steps(flags, "train_iters", "train_samples")
    end = _steps(flags, "lr_decay_iters", "lr_decay_samples") or train
    if end is None:
        return None
    if style == "constant":
        return train
    if style == "WSD":
        length = _steps(flags, "lr_wsd_decay_iters", "lr_wsd_decay_samples")
        return None if length is None else max(0, end - length)
    if style in _DECAYING_FROM_WARMUP:
        fraction = _number(flags.get("lr_warmup_fraction"))
        if fraction is not None:
            return round(fraction * end)
        return _steps(flags, "lr_warmup_iters", "lr_warmup_samples") or 0
    return None


def _steps(flags: Mapping[str, Any], iters: str, samples: str) -> int | None:
    """A length that Megatron takes in steps or in samples, in steps; None without either."""
    steps = _number(flags.get(iters))
    if steps:
        return int(steps)
    total, batch_size = _number(flags.get(samples)), _number(flags.get("global_batch_size"))
    # A batch size that ramps up makes more steps of the samples: not worth a guess.
    if total and batch_size and not batch_size_changes(flags):
        return int(total // batch_size)
    return None


def _number(value: Any) -> float | None:
    """A flag's value; None where a ledger made by hand has something else."""
    return value if isinstance(value, int | float) and math.isfinite(value) else None
