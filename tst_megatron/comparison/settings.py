"""The settings of two runs: the main ones they share, and every one that differs.

The one idea: two runs compare cleanly only if superposition is all that differs, so whatever else
does is found here from the flags themselves and shown.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tst_megatron.training.ledger import Ledger

_SUPERPOSITION_PREFIX = "tst_"
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
# Where a run writes and how far it had got: these say nothing about what was trained.
_BOOKKEEPING = frozenset(
    {
        "consumed_train_samples",
        "consumed_valid_samples",
        "curr_iteration",
        "iteration",
        "load",
        "local_rank",
        "num_floating_point_operations_so_far",
        "one_logger_run_name",
        "rank",
        "save",
        "skipped_train_samples",
        "tensorboard_dir",
        "tst_ledger",
        "wandb_exp_name",
        "wandb_save_dir",
    }
)
_ABSENT = object()


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


def compare_settings(baseline: Ledger | None, tst: Ledger | None) -> Settings:
    """Lay the settings of both headers side by side; a missing run differs in nothing."""
    ours, theirs = _flat(tst or baseline), _flat(baseline or tst)
    names = [name for name in sorted(ours.keys() | theirs.keys()) if name not in _BOOKKEEPING]
    differing = [name for name in names if theirs.get(name, _ABSENT) != ours.get(name, _ABSENT)]
    main = [name for name in (*_MAIN, "device") if ours.get(name) is not None]
    return Settings(
        tuple((name, _text(ours[name])) for name in main if name not in differing),
        tuple(
            (name, _text(theirs.get(name, _ABSENT)), _text(ours.get(name, _ABSENT)))
            for name in differing
        ),
        tuple(name for name in differing if not name.startswith((_SUPERPOSITION_PREFIX, "bags"))),
    )


def _flat(ledger: Ledger | None) -> dict[str, Any]:
    """Flags, versions and schedule of a header under one set of names."""
    header: Mapping[str, Any] = {} if ledger is None else ledger.header
    versions = header.get("versions", {})
    return {
        **header.get("flags", {}),
        **{f"version of {name}": value for name, value in versions.items()},
        **{
            name: header[name]
            for name in ("device", "host", "world_size", "seed")
            if name in header
        },
        "bags (size × samples)": _schedule(header.get("superposition")),
    }


def _schedule(superposition: Mapping[str, Any] | None) -> str:
    stages = (superposition or {}).get("stages", [])
    return ", ".join(f"{bag_size} × {samples:,}" for bag_size, samples in stages) or "none"


def _text(value: Any) -> str:
    if value is _ABSENT or value is None:
        return "–"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)
