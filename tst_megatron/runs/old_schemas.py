"""Ledgers of schemas 1 and 2 as ledgers of schema 3; also what arguments of those days tell.

The one idea: those schemas knew one method, token superposition, and had its words at their top
level. They are put where schema 3 has a method's words when lines are read, so this is the one
place below the methods that speaks of bags. Schema 1 had no standard errors, and fewer facts in its
header; what is missing is missing.
"""

from collections.abc import Mapping
from typing import Any

from tst_megatron.runs.stages import ORDINARY, Stage

NUMBERS = {
    "header": (),
    "step": ("bag_size",),
    "validation": ("bag_loss", "bag_loss_stderr", "switch_step"),
    "evaluation": (),
}
"""Fields of lines that were numbers."""
_METHOD = "superposition"
_LOSS = "bag loss"
_PREFIX = "tst_"
# Flags that had the method's prefix and are not about it.
_RENAMED = (
    "blend",
    "allow_repeats",
    "allow_schedule_change",
    "fixed_validation",
    "ledger",
    "ledger_fsync_interval",
    "compare_with",
)


def header_fault(header: Mapping[str, Any]) -> tuple[str, Any, str] | None:
    """What of a header's old fields cannot be read: its name, its value, and what it must be."""
    method = header.get(_METHOD)
    if not isinstance(method, dict | None):
        return _METHOD, method, "a table"
    for name in ("superpose", "objective", "bag_boundary"):
        if isinstance((method or {}).get(name), list | dict):
            return name, (method or {})[name], "a number or text"
    stages = (method or {}).get("stages", [])
    if isinstance(stages, list) and all(map(_is_pair, stages)):
        return None
    return "stages", stages, "a list of [bag size, samples]"


def header_of_old(header: Mapping[str, Any]) -> dict[str, Any]:
    """A header of schema 1 or 2 as one of schema 3.

    Args:
        header: without faults; without ``superposition`` it does not tell of methods at all.
    """
    found = {name: value for name, value in header.items() if name != _METHOD}
    found["flags"] = flags_of_old(header.get("flags") or {})
    if _METHOD in header:
        found["methods"] = _methods(header[_METHOD], found["flags"])
    return found


def flags_of_old(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments under the names that they have now."""
    found = {name: value for name, value in flags.items() if name != f"{_PREFIX}{_METHOD}"}
    for name in _RENAMED:
        if f"{_PREFIX}{name}" in found:
            found[name] = found.pop(f"{_PREFIX}{name}")
    return found


def methods_in_old_flags(flags: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """A header's ``methods`` from arguments of those days; None of a program that had none."""
    name = f"{_PREFIX}{_METHOD}"
    return _methods(flags[name], flags) if name in flags else None


def _methods(method: Mapping[str, Any] | None, flags: Mapping[str, Any]) -> list[dict[str, Any]]:
    """From what stood under ``superposition``; none where that is None."""
    if not method:
        return []
    pairs = [tuple(pair) for pair in method.get("stages", [])]
    if pairs and pairs[-1][0] == 1:
        del pairs[-1]
    reads_bags = method.get("superpose") != "output"
    stages = [_superposed(size, samples, reads_bags) for size, samples in pairs]
    left = _samples(flags) - sum(stage.samples for stage in stages)
    stages.append(Stage(ORDINARY, max(0, left), facts={"bag_size": 1}))
    return [{"name": _METHOD, "stages": [one.as_json() for one in stages], "facts": dict(method)}]


def line_of_old(line: Mapping[str, Any], header: Mapping[str, Any]) -> dict[str, Any]:
    """A line of schema 1 or 2 as one of schema 3; an evaluation was appended to one later.

    Args:
        line: as read.
        header: of schema 3, that it comes after.
    """
    found = {name: value for name, value in line.items() if name not in NUMBERS[line["kind"]]}
    if line["kind"] == "step":
        found["facts"] = _step_facts(line.get("bag_size"), header)
        return found
    for name, table in (("bag_loss", "losses"), ("bag_loss_stderr", "stderrs")):
        if name in line:
            found[table] = {_LOSS: line[name]}
    if line.get("switch_step"):
        found["facts"] = {"switch_step": line["switch_step"]}
    return found


def _step_facts(bag_size: int | None, header: Mapping[str, Any]) -> dict[str, Any] | None:
    """None where the line does not tell; an ordinary run's steps have none."""
    if bag_size is None:
        return None
    return {} if bag_size == 1 and not header.get("methods") else {"bag_size": bag_size}


def _superposed(size: int, samples: int, reads_bags: bool) -> Stage:
    return Stage(
        name=ORDINARY if size == 1 else f"bags of {size}",
        samples=samples,
        tokens_a_position=size if reads_bags else 1,
        loss=_LOSS,
        method=_METHOD,
        facts={"bag_size": size},
    )


def _samples(flags: Mapping[str, Any]) -> int:
    """Of the whole run; 0 where that is not known."""
    samples, steps, size = (
        flags.get(name) for name in ("train_samples", "train_iters", "global_batch_size")
    )
    if isinstance(samples, int) and samples:
        return samples
    return steps * size if isinstance(steps, int) and isinstance(size, int) else 0


def _is_pair(stage: Any) -> bool:
    """(bag size, samples), both above 0."""
    return (
        isinstance(stage, list | tuple)
        and len(stage) == 2
        and all(type(number) is int and number > 0 for number in stage)
    )
