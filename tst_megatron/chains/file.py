"""A chain's file: what it shares, and its links, as they are written.

Strict, since a slip would train for weeks. The one idea: a sentence about a file names the file,
and the link in it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from tst_megatron import strict_yaml
from tst_megatron.errors import UserError
from tst_megatron.methods.registry import methods
from tst_megatron.old_flags import name_now
from tst_megatron.recipes.files import nearest
from tst_megatron.recipes.keys import check_flag, main_name
from tst_megatron.runs.flag_roles import Role

CONTINUE = "continue"
UNTIL, STEPS, TOKENS, FLOPS = "until", "steps", "tokens", "flops"
_BUDGETS = (UNTIL, STEPS, TOKENS, FLOPS)
_HOURS = "gpu-hours"
_OF_CHAIN = ("name", "out", "recipe", "flags", "links")
_OF_LINK = ("name", "start", "schedule", "flags", *_BUDGETS)
# Of folders, and of words in a shell.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SUFFIXES = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}

_LENGTH = ("train-iters", "train-samples")
_RATES = (
    *("lr", "min-lr", "weight-decay", "start-weight-decay", "end-weight-decay"),
    *("weight-decay-incr-style", "override-opt-param-scheduler"),
    *("override-opt_param-scheduler", "use-checkpoint-opt_param-scheduler"),
)
_SAMPLES = tuple(name.replace("_", "-") for name in (*Role.BATCH.value, "seed"))
_PLACES = (
    *(name.replace("_", "-") for name in Role.OUTPUT.value),
    *("load-once", "exit-after-step", "exit-interval", "ckpt-step", "finetune"),
    *("pretrained-checkpoint", "skip-train", "phase-transition-iterations"),
)


@dataclass(frozen=True)
class Budget:
    """How long a link is.

    Attributes:
        kind: ``until``, ``steps``, ``tokens`` or ``flops``.
        amount: of these; of ``until`` a share.
        written: as in the file.
    """

    kind: str
    amount: Decimal
    written: str

    def __str__(self) -> str:
        return f"{self.kind} {self.written}"


@dataclass(frozen=True)
class LinkFile:
    """A link as it is written.

    Attributes:
        name: of it.
        start: ``continue``, or the prefix of the method that makes its model from the one before.
        budget: None of one that takes what is left.
        flags: those in which it differs from the link before.
        own_schedule: whether these may be of the learning rate.
    """

    name: str
    start: str
    budget: Budget | None
    flags: dict[str, Any]
    own_schedule: bool


@dataclass(frozen=True)
class ChainFile:
    """A chain as it is written.

    Attributes:
        path: of the file.
        name: of the chain.
        out: its folder; None where the file names none.
        recipe: what all links share; None likewise.
        flags: of all links; they win over the recipe's.
        links: in their order.
    """

    path: Path
    name: str
    out: str | None
    recipe: str | None
    flags: dict[str, Any]
    links: tuple[LinkFile, ...]

    def where(self, link: LinkFile | None = None) -> str:
        """What a sentence about it, or about one of its links, begins with."""
        return f"the chain {self.path}" + (f", link {link.name}," if link else "")


def starts() -> dict[str, str]:
    """How a link may start from one of another model: the method's prefix, and its name."""
    return {method.flag_prefix: method.name for method in methods() if method.starts_from_another}


def read_chain(path: Path) -> ChainFile:
    """Read a chain's file.

    Raises:
        UserError: it cannot be read, or says what a chain cannot do.
    """
    where = f"the chain {path}"
    values = _mapping(strict_yaml.read(path, where, name_now), where)
    _check_keys(values, _OF_CHAIN, where)
    name = _name(values.get("name"), where)
    out, recipe = (_text(values.get(key), f"{where} has {key}:") for key in ("out", "recipe"))
    flags = _flags(values.get("flags"), where, _refused_of_chain)
    listed = values.get("links")
    if not isinstance(listed, list) or not listed:
        raise UserError(f"{where} has no list of links: write links, and under it - name: ...")
    links = tuple(_link(one, number, where) for number, one in enumerate(listed, 1))
    _check_names([link.name for link in links], where)
    chain = ChainFile(path, name, out, recipe, flags, links)
    if links[0].start != CONTINUE:
        raise UserError(
            f"{chain.where(links[0])} has start: {links[0].start}, and no link is before it"
        )
    for link in links[:-1]:
        if link.budget is None:
            raise UserError(
                f"{chain.where(link)} does not say how long it is, and only the last takes what is "
                f"left: add {', '.join(_BUDGETS[:-1])} or {_BUDGETS[-1]}"
            )
    return chain


def _link(value: Any, number: int, where: str) -> LinkFile:
    values = _mapping(value, f"{where}, link {number},")
    if values.get("name") is None:
        raise UserError(f"{where} has a link without a name, number {number}: add name")
    name = _name(values["name"], f"{where}, link {number},")
    where = f"{where}, link {name},"
    if _HOURS in values:
        raise UserError(
            f"{where} has gpu_hours, and how many steps they are is not known before it runs: give "
            "steps, tokens or flops, for which chain plan tells the hours"
        )
    _check_keys(values, _OF_LINK, where)
    start = values.get("start", CONTINUE)
    if start not in (CONTINUE, *starts()):
        there = ", ".join((CONTINUE, *starts()))
        raise UserError(f"{where} has start: {start}, which is none: there are {there}")
    schedule = values.get("schedule")
    if schedule not in (None, "chain", "own"):
        raise UserError(f"{where} has schedule: {schedule}: write own, or leave it out")
    own = schedule == "own"
    flags = _flags(values.get("flags"), where, lambda key: _refused_of_link(key, own))
    _check_start(start, flags, where)
    return LinkFile(name, start, _budget(values, where), flags, own)


def _check_start(start: str, flags: Mapping[str, Any], where: str) -> None:
    """A method that starts from another model is asked for by ``start`` and by its flag."""
    for method in methods():
        if not method.starts_from_another:
            continue
        prefix = method.flag_prefix
        asking = method.asked_by or (prefix,)
        given = [flag for flag in asking if flags.get(flag) not in (None, False)]
        if start == prefix and not given:
            any_of = " or ".join(asking)
            raise UserError(f"{where} has start: {start}, and no {any_of} in its flags: add it")
        if start != prefix and given:
            raise UserError(f"{where} has {given[0]} in its flags: add start: {prefix}")


def _refused_of_chain(key: str) -> str | None:
    for prefix in starts():
        if f"{key}-".startswith(f"{prefix}-"):
            return f"which is a link's: put it in the flags of the one that has start: {prefix}"
    return _refused_of_any(key)


def _refused_of_link(key: str, own_schedule: bool) -> str | None:
    if key in _LENGTH:
        return "which is the whole chain's: put it in the chain's flags, and give the link steps"
    if key in _SAMPLES:
        return "which is the chain's, as its samples come in one order: put it in its flags"
    if not own_schedule and (key in _RATES or key.startswith("lr-")):
        return (
            "which is the chain's, as one schedule goes over all links: put it in the chain's "
            "flags, or give the link schedule: own"
        )
    return _refused_of_any(key)


def _refused_of_any(key: str) -> str | None:
    return "which is the chain's to set: leave it out" if key in _PLACES else None


def _flags(value: Any, where: str, refused: Callable[[str], str | None]) -> dict[str, Any]:
    given = {} if value is None else _mapping(value, f"{where} flags")
    flags: dict[str, Any] = {}
    for written, setting in given.items():
        key = main_name(written)
        parts = setting if isinstance(setting, list) else [setting]
        if any(isinstance(part, list | dict) for part in parts):
            raise UserError(f"{where} has {key} with values inside values: a flag takes one")
        check_flag(key, setting, where)
        if key in flags:
            raise UserError(f"{where} has {key} in two spellings: leave one of them out")
        if why := refused(key):
            raise UserError(f"{where} has {key}, {why}")
        flags[key] = setting
    return flags


def _budget(values: Mapping[str, Any], where: str) -> Budget | None:
    given = [kind for kind in _BUDGETS if values.get(kind) is not None]
    if not given:
        return None
    if len(given) > 1:
        raise UserError(f"{where} has {' and '.join(given)}, and one says how long it is: give one")
    (kind,) = given
    written = str(values[kind])
    amount = _share(written) if kind == UNTIL else _number(written)
    if amount is None or amount <= 0 or (kind == UNTIL and amount > 1):
        example = {UNTIL: "25%", STEPS: "3500", TOKENS: "2M", FLOPS: "1e18"}[kind]
        raise UserError(f"{where} has {kind}: {written}, which is none: write such as {example}")
    if kind == STEPS and amount != int(amount):
        raise UserError(f"{where} has steps: {written}, and steps are whole: round it")
    return Budget(kind, amount, written)


def _share(text: str) -> Decimal | None:
    number = _number(text[:-1]) if text.endswith("%") else None
    return None if number is None else number / 100


def _number(text: str) -> Decimal | None:
    text = text.strip().upper()
    factor = _SUFFIXES.get(text[-1:], 1)
    try:
        number = Decimal(text[:-1] if factor > 1 else text) * factor
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where} is no mapping of names to values")
    return value


def _check_keys(values: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in values:
        if key not in known:
            raise UserError(f"{where} has the key {key}, which is none: {nearest(key, [*known])}")


def _check_names(names: Sequence[str], where: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{where} has two links of the name {name}: rename one of them")


def _name(value: Any, where: str) -> str:
    if value is None:
        raise UserError(f"{where} has no name: add name")
    if isinstance(value, list | dict) or not _NAME.fullmatch(str(value)):
        raise UserError(
            f"{where} has the name {value!r}, which is also a folder's: use letters, digits, dots "
            "and dashes"
        )
    return str(value)


def _text(value: Any, where: str) -> str | None:
    if isinstance(value, list | dict | bool):
        raise UserError(f"{where} {value}, which is no text")
    return None if value is None else str(value)
