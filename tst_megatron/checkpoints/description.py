"""What a checkpoint is, told from its list and its arguments; no tensor is read.

The one idea: all that a user asks of a checkpoint before loading it (which model, how large, which
step, can another layout read it) is in two small parts of it. Facts are worked out once, and
printed as a table or as JSON.
"""

import math
from argparse import Namespace
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tst_megatron.checkpoints.keys import is_of_model, is_of_optimizer, key_of, other_norm
from tst_megatron.checkpoints.saved import TORCH_DIST, Saved, format_of
from tst_megatron.checkpoints.steps import RELEASE
from tst_megatron.checkpoints.wholeness import fault_of
from tst_megatron.runs.flag_roles import Role

_TABLES = ("embedding.", "output_layer.")
_RESHARDABLE = ("fully_reshardable", "fully_sharded_model_space")
"""As ``DistributedOptimizer.checkpoint_fully_reshardable_formats``, which needs Megatron."""
_TRANSFORMER_ENGINE = "transformer_engine"
_LOCAL = "local"
_EITHER = "either"

type Facts = dict[str, Any]


def facts_of(folder: Path) -> Facts:
    """What is known of a step's folder.

    Args:
        folder: of the step.

    Returns:
        Facts by name, as JSON has them; with a fault or in another format as far as they go.

    Raises:
        UserError: it is no checkpoint.
    """
    files = [file for file in folder.rglob("*") if file.is_file()]
    fault = fault_of(folder)
    facts: Facts = {
        "folder": str(folder),
        "format": format_of(folder),
        "is_whole": fault is None,
        "fault": fault,
        "files": len(files),
        "bytes": sum(file.stat().st_size for file in files),
    }
    if fault is not None or facts["format"] != TORCH_DIST:
        return facts
    return facts | _of_saved(Saved(folder))


def _of_saved(saved: Saved) -> Facts:
    args, common = saved.args, saved.common
    return {
        "step": None if saved.folder.name == RELEASE else common.get("iteration"),
        "is_release": saved.folder.name == RELEASE,
        "model": _model(saved, args),
        "parameters": _parameters(saved),
        "dtypes": _dtypes(saved),
        "layout": {name: getattr(args, name, None) for name in Role.LAYOUT.value}
        | {"world_size": getattr(args, "world_size", None)},
        "optimizer": optimizer_of(saved),
        "schedule": common.get("opt_param_scheduler"),
        "consumed_train_samples": getattr(args, "consumed_train_samples", None),
        "methods": getattr(args, "methods", None) or {},
        "norms": norms_of(saved.tensors, bool(getattr(args, "hybrid_layer_pattern", None))),
    }


def _model(saved: Saved, args: Namespace) -> Facts:
    pattern = getattr(args, "hybrid_layer_pattern", None)
    names = (
        *("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "num_experts"),
        *("moe_ffn_hidden_size", "moe_router_topk", "padded_vocab_size", "mtp_num_layers"),
        *("hybrid_layer_pattern", "moe_layer_freq", "seq_length"),
    )
    facts: Facts = {"class": "HybridModel" if pattern else "GPTModel"}
    facts |= {name: getattr(args, name, None) for name in names}
    has_groups = getattr(args, "group_query_attention", False)
    facts["num_query_groups"] = args.num_query_groups if has_groups else facts[names[3]]
    facts["ties_embeddings"] = not any(key.startswith(_TABLES[1]) for key in saved.tensors)
    return facts


def _parameters(saved: Saved) -> Facts:
    sizes = {
        text: math.prod(one.size)
        for text, one in saved.tensors.items()
        if is_of_model(text) and key_of(text).is_parameter and not _is_second_name(saved, text)
    }
    tables = sum(size for text, size in sizes.items() if text.startswith(_TABLES))
    total = sum(sizes.values())
    return {"total": total, "without_embeddings": total - tables, "tensors": len(sizes)}


def _is_second_name(saved: Saved, text: str) -> bool:
    """Whether a tensor is a norm's that is there under the key of either kind of layer, and this is
    that of one that stands apart.
    """
    name = key_of(text).name
    other = None if name is None else other_norm(name)
    if name is None or other is None or ".layer_norm_" in name:
        return False
    return text.removesuffix(name) + other in saved.tensors


def _dtypes(saved: Saved) -> Facts:
    """Of how many elements each, by whose they are."""
    found: dict[str, dict[str, int]] = {"model": {}, "optimizer": {}}
    for text, one in saved.tensors.items():
        if _is_second_name(saved, text):
            continue
        counts = found["optimizer" if is_of_optimizer(text) else "model"]
        dtype = str(one.properties.dtype).removeprefix("torch.")
        counts[dtype] = counts.get(dtype, 0) + math.prod(one.size)
    return found


def optimizer_of(saved: Saved) -> Facts:
    """Whether there is an optimizer's state, and what can be done with it.

    Returns:
        ``states`` by parameter, such as ``exp_avg``; ``kind`` as Megatron calls the way it is cut,
        and ``plain`` of one that is not distributed; whether another layout can read it; whether it
        can grow.
    """
    states = sorted({key.state for text in saved.tensors if (key := key_of(text)).state})
    if not any(is_of_optimizer(text) for text in saved.metadata.state_dict_metadata):
        return {"is_there": False}
    content = saved.common.get("content_metadata") or {}
    kind = content.get("distrib_optim_sharding_type") or "plain"
    by_parameter = kind == "plain" or kind in _RESHARDABLE
    return {
        "is_there": True,
        "states": states,
        "kind": kind,
        "can_be_resharded": by_parameter,
        "can_grow": by_parameter,
    }


def norms_of(keys: Iterable[str], is_hybrid: bool) -> str:
    """Whose modules can load the norms before attention and MLP, by the keys that they are under.

    Transformer Engine fuses a norm with the linear layer behind it, but for one before experts.
    Megatron's own layers, which a CPU has, keep it apart; a ``GPTModel`` of them is saved under
    the fused keys all the same, before experts too, and a ``HybridModel`` is not
    (``sharded_state_dict_keys_map`` in megatron/core/models/).

    Args:
        keys: of tensors.
        is_hybrid: whether they are a ``HybridModel``'s.

    Returns:
        ``local``, ``transformer_engine``, or ``either``.
    """
    names: dict[int | None, set[str]] = {}
    for key in map(key_of, keys):
        if key.name is not None and key.state is None:
            names.setdefault(key.layer, set()).add(key.name)
    found = set()
    for own in names.values():
        has_router = any(name.startswith("mlp.router.") for name in own)
        has_fused = any(".layer_norm_" in name for name in own)
        if any(other_norm(name) in own for name in own):
            # Under both, as a checkpoint has it that was made for either.
            continue
        if is_hybrid and has_fused:
            found.add(_TRANSFORMER_ENGINE)
        elif is_hybrid and not has_router and any("_layernorm." in name for name in own):
            found.add(_LOCAL)
        elif not is_hybrid and has_router:
            is_apart = any(name.startswith("pre_mlp_layernorm.") for name in own)
            found.add(_TRANSFORMER_ENGINE if is_apart else _LOCAL)
    return found.pop() if len(found) == 1 else _EITHER


def rows_of(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The facts as rows of a table, for the eye."""
    whole = "whole" if facts["is_whole"] else f"not whole: {facts['fault']}"
    size = f"{facts['bytes']:,} bytes in {facts['files']:,} files"
    rows = [("format", facts["format"]), ("files", f"{size}, {whole}")]
    if "model" not in facts:
        return rows
    return [*rows, ("step", _step(facts)), *_model_rows(facts), *_state_rows(facts)]


def _step(facts: Mapping[str, Any]) -> str:
    if facts["is_release"]:
        return "a release, whose weights alone are taken: a run starts from it at step 0"
    samples = facts["consumed_train_samples"]
    told = "" if samples is None else f", {samples:,} samples consumed"
    return f"{facts['step']:,}{told}" if facts["step"] is not None else f"none told{told}"


def _model_rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    model, counts = facts["model"], facts["parameters"]
    heads = f"{model['num_attention_heads']} heads"
    if model["num_query_groups"] != model["num_attention_heads"]:
        heads += f" in {model['num_query_groups']} groups"
    words = [
        f"{model['class']}, {model['num_layers']} layers",
        f"hidden size {model['hidden_size']}",
        heads,
        f"feed-forward size {model['ffn_hidden_size']}",
    ]
    if model["num_experts"]:
        words.append(
            f"{model['num_experts']} experts of {model['moe_ffn_hidden_size']}, "
            f"{model['moe_router_topk']} a token"
        )
        if model["moe_layer_freq"] != 1 and not model["hybrid_layer_pattern"]:
            words.append(f"in layers {model['moe_layer_freq']}")
    if model["hybrid_layer_pattern"]:
        words.append(f"pattern {model['hybrid_layer_pattern']}")
    if model["mtp_num_layers"]:
        words.append(f"{model['mtp_num_layers']} heads of multi-token prediction")
    ties = ", one table for input and output" if model["ties_embeddings"] else ""
    return [
        ("model", ", ".join(words)),
        ("vocabulary", f"{model['padded_vocab_size']} rows, padded{ties}"),
        (
            "parameters",
            f"{counts['total']:,}, without embeddings {counts['without_embeddings']:,}",
        ),
        ("dtypes", "; ".join(f"{whose} {_shares(of)}" for whose, of in facts["dtypes"].items())),
        ("norms", _NORMS[facts["norms"]]),
    ]


_NORMS = {
    _LOCAL: "under the keys of Megatron's own layers (--transformer-impl local, as on a CPU)",
    _TRANSFORMER_ENGINE: "under the keys of Transformer Engine's layers",
    _EITHER: "under keys that Megatron's own layers and Transformer Engine's both have",
}


def _shares(counts: Mapping[str, int]) -> str:
    if not counts:
        return "none"
    return ", ".join(counts) if len(counts) == 1 else ", ".join(
        f"{dtype} ({count:,})" for dtype, count in sorted(counts.items(), key=lambda one: -one[1])
    )  # fmt: skip


def _state_rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    layout = facts["layout"]
    short = {
        "tensor_model_parallel_size": "TP",
        "pipeline_model_parallel_size": "PP",
        "expert_model_parallel_size": "EP",
        "context_parallel_size": "CP",
        "data_parallel_size": "DP",
    }
    sizes = [f"{word} {layout[name]}" for name, word in short.items() if layout[name] is not None]
    rows = [("written by", f"{layout['world_size']} rank(s): {', '.join(sizes)}")]
    if not facts["is_release"]:
        rows.append(("optimizer", _optimizer(facts["optimizer"])))
    schedule = facts["schedule"]
    if schedule is not None:
        rows.append(
            (
                "schedule",
                f"{schedule.get('lr_decay_style')}, {schedule.get('num_steps'):,} of "
                f"{schedule.get('lr_decay_steps'):,} samples, peak {schedule.get('max_lr'):g}",
            )
        )
    for name, method in facts["methods"].items():
        told = ", ".join(f"{key} {value}" for key, value in (method.get("facts") or {}).items())
        rows.append(("method", f"{name}: {told}" if told else name))
    return rows


def _optimizer(optimizer: Mapping[str, Any]) -> str:
    if not optimizer["is_there"]:
        return "none, so that --no-load-optim is needed"
    states = f" ({', '.join(optimizer['states'])})" if optimizer["states"] else ""
    if optimizer["can_be_resharded"]:
        return f"{optimizer['kind']}{states}: any layout reads it, and it can grow"
    return (
        f"{optimizer['kind']}{states}: for the same tensor and pipeline parallelism alone, and it "
        "cannot grow; --dist-ckpt-optim-fully-reshardable saves one that can"
    )
