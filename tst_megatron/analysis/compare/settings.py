"""The settings of two runs: the main ones they share, and every one that differs.

The one idea: two runs compare cleanly only if superposition is all that differs, so whatever else
does is found here from the flags themselves and shown.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Protocol

_SUPERPOSITION_PREFIX = "tst_"
_BAGS = "bags (size × samples)"
_MAIN = (
    "num_layers",
    "hidden_size",
    "ffn_hidden_size",
    "num_attention_heads",
    "num_query_groups",
    "num_experts",
    "seq_length",
    "padded_vocab_size",
    "global_batch_size",
    "micro_batch_size",
    "train_iters",
    "optimizer",
    "lr",
    "min_lr",
    "lr_decay_style",
    "lr_warmup_iters",
    "weight_decay",
    "bf16",
    "world_size",
    "tokenizer_model",
    "data_path",
    "seed",
)
# Where a run writes, how far it had got and who watches: these say nothing of what was trained.
_BOOKKEEPING = frozenset(
    {
        "app_tag_run_name",
        "consumed_train_samples",
        "consumed_valid_samples",
        "curr_iteration",
        "data_cache_path",
        "iteration",
        "load",
        "local_rank",
        "num_floating_point_operations_so_far",
        "one_logger_run_name",
        "rank",
        "save",
        "skipped_train_samples",
        "tensorboard_dir",
        "compare_with",
        "ledger",
        "ledger_fsync_interval",
        "recipe",
        # What its header has in words of its own.
        "tst_superposition",
        "wandb_entity",
        "wandb_exp_name",
        "wandb_project",
        "wandb_save_dir",
    }
)


class HasHeader(Protocol):
    """A ledger or a run."""

    @property
    def header(self) -> Mapping[str, Any]:
        """Of the last start; what is not known is not there."""
        ...


_HASH_OF_PATH = {
    "data_path": "data sha256",
    "train_data_path": "data sha256",
    "valid_data_path": "data sha256",
    "test_data_path": "data sha256",
    "blend": "data sha256",
    "tokenizer_model": "tokenizer sha256",
    "vocab_file": "tokenizer sha256",
    "merge_file": "tokenizer sha256",
}


@dataclass(frozen=True)
class Settings:
    """Settings as text.

    Attributes:
        shared: (name, value) of the main settings, where the runs agree.
        differing: (name, baseline, TST) of all settings that differ.
        beyond_superposition: names of those that are not about superposition.
    """

    shared: tuple[tuple[str, str], ...]
    differing: tuple[tuple[str, str, str], ...]
    beyond_superposition: tuple[str, ...]


def compare_settings(baseline: HasHeader | None, tst: HasHeader | None) -> Settings:
    """Lay the settings of both headers side by side.

    A missing run differs in nothing, nor does a flag where one source tells no flags at all.
    """
    ours, theirs = (settings_of(run.header) if run else {} for run in (tst, baseline))
    if not ours or not theirs:
        ours = theirs = ours or theirs
    kept = _comparable_names(ours, theirs)
    differing = [name for name in kept if _differ(theirs.get(name), ours.get(name))]
    main = [name for name in (*_MAIN, "device") if ours.get(name) is not None]
    return Settings(
        tuple((name, _text(ours[name])) for name in main if name not in differing),
        tuple((name, _text(theirs.get(name)), _text(ours.get(name))) for name in differing),
        tuple(name for name in differing if not name.startswith((_SUPERPOSITION_PREFIX, _BAGS))),
    )


def settings_of(header: Mapping[str, Any]) -> dict[str, Any]:
    """What a header tells of a run under one set of names, without the bookkeeping.

    That is its flags by their names, and ``version of NAME``, ``device``, ``host``, ``world_size``,
    ``seed``, ``git commit``, ``data sha256``, ``tokenizer sha256`` and ``bags (size × samples)``.
    """
    flags = flags_of(header)
    data = header.get("data") or []
    hashes = [place.get("manifest_sha256") for place in data]
    found = {
        **{name: value for name, value in flags.items() if name not in _BOOKKEEPING},
        **{f"version of {name}": of for name, of in (header.get("versions") or {}).items()},
        **{name: header[name] for name in ("device", "host", "world_size") if name in header},
        "git commit": (header.get("git") or {}).get("commit"),
        "data sha256": None if None in hashes else hashes or None,
        "tokenizer sha256": (header.get("tokenizer") or {}).get("sha256"),
        "seed": header.get("seed", flags.get("seed")),
    }
    if "superposition" in header:
        found[_BAGS] = _schedule(header["superposition"])
    return {name: value for name, value in found.items() if value is not None}


def flags_of(header: Mapping[str, Any]) -> dict[str, Any]:
    """Megatron's arguments, none of which depends on when the header was written."""
    flags = dict(header.get("flags") or {})
    # Megatron completes this one after its other arguments.
    if flags.get("group_query_attention") is False and "num_attention_heads" in flags:
        flags["num_query_groups"] = flags["num_attention_heads"]
    return flags


def known_differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Names of the settings that both sides tell and that differ, sorted.

    Args:
        one: as of `settings_of`.
        other: likewise.
    """
    return sorted(name for name in one.keys() & other.keys() if _differ(one[name], other[name]))


def same_content(name: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether a setting is a path to what is the same on both sides, wherever it lies.

    By its hash where both sides tell one, else by the names of its files.

    Args:
        name: of the setting.
        one: as of `settings_of`, with the setting.
        other: likewise.
    """
    if name not in _HASH_OF_PATH:
        return False
    sha256 = _HASH_OF_PATH[name]
    if sha256 in one and sha256 in other:
        return not _differ(one[sha256], other[sha256])
    return _file_names(one[name]) == _file_names(other[name])


def _file_names(value: Any) -> list[str]:
    paths = value if isinstance(value, list | tuple) else [value]
    return [PurePath(str(path)).name for path in paths]


def _comparable_names(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Names of both, sorted; only those that both tell where one source tells no flags."""
    if all("train_iters" in side or "num_layers" in side for side in (ours, theirs)):
        return sorted(ours.keys() | theirs.keys())
    return sorted(ours.keys() & theirs.keys())


def _differ(one: Any, other: Any) -> bool:
    return bool(_plain(one) != _plain(other))


def _plain(value: Any) -> Any:
    """Without the difference between tuples and lists, which JSON does not know either."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _schedule(superposition: Mapping[str, Any] | None) -> str:
    stages = (superposition or {}).get("stages", [])
    return ", ".join(f"{bag_size} × {samples:,}" for bag_size, samples in stages) or "none"


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)
