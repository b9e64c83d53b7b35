"""``--blend``: a blend as a YAML of sources, turned into Megatron's data flags.

A blend is ``sources:``, one list for all splits (cut by ``--split``), or lists ``train:``,
``valid:`` and ``test:``. A source has a ``path``, perhaps a ``weight``, and for training perhaps
``epochs``, how often a stage may read it (1 if it does not say). A recipe carries one as the
mapping ``blend:``. A corpus left in shards is as many sources, each shuffled by itself;
``index merge`` makes it one.

The one idea: what Megatron is given is its own blend, so a run can be repeated without us.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tst_megatron import strict_yaml
from tst_megatron.errors import UserError
from tst_megatron.old_flags import name_now

SPLITS = ("train", "valid", "test")
"""Megatron's ``Split``, in its order."""

# Ways of naming the data of a run, each in place of all others.
DATA_FORMS: tuple[tuple[str, ...], ...] = (
    ("--data-path",),
    ("--data-args-path",),
    ("--train-data-path", "--valid-data-path", "--test-data-path"),
    ("--per-split-data-args-path",),
    ("--mock-data",),
    ("--blend",),
)
_KEYS = ("path", "weight", "epochs")


@dataclass(frozen=True)
class BlendSource:
    """One corpus of a blend.

    Attributes:
        path: its prefix, absolute or in object storage.
        weight: share of the samples, in any unit; None in a blend by size.
        epochs: how often a stage may read it; None where the file does not say.
    """

    path: str
    weight: float | None
    epochs: float | None


@dataclass(frozen=True)
class BlendFile:
    """What a blend file says.

    Attributes:
        lists: the sources, by the name of their list.
    """

    lists: dict[str, tuple[BlendSource, ...]]

    @property
    def flags(self) -> list[str]:
        """The blend as Megatron's flags."""
        line = []
        for name, sources in self.lists.items():
            line.append("--data-path" if name == "sources" else f"--{name}-data-path")
            for source in sources:
                line.extend([] if source.weight is None else [repr(source.weight)])
                line.append(source.path)
        return line

    @property
    def max_epochs(self) -> dict[str, float]:
        """How often a stage may read each training source, where the file says so."""
        training = self.lists.get("sources") or self.lists["train"]
        return {s.path: s.epochs for s in training if s.epochs is not None}


def is_remote(path: str) -> bool:
    """Whether a path is in object storage (megatron/core/datasets/object_storage_utils.py)."""
    return path.startswith(("s3://", "msc://"))


def expand_blend(argv: list[str]) -> list[str]:
    """Add the flags of the file that ``--blend`` names, the last one if there are several.

    Raises:
        UserError: the file is missing or broken, or the data are named in another form too.
    """
    rest, file = [], None
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name != "--blend":
            rest.append(word)
            continue
        file = value if equals else next(words, None)
        if file is None:
            raise UserError("--blend needs a file: give it a .yaml file")
    if file is None:
        return rest
    for word in rest:
        name = word.partition("=")[0]
        if any(name in form for form in DATA_FORMS):
            raise UserError(f"--blend and {name} are two forms of one thing: use one")
    return [*rest, "--blend", file, *load_blend(file).flags]


def load_blend(file: str) -> BlendFile:
    """Read a blend, or the one that a recipe carries.

    Raises:
        UserError: it cannot be read, or is not a blend.
    """
    where = f"the blend {file}"
    content = strict_yaml.read(Path(file), where, name_now)
    if isinstance(content, dict) and isinstance(content.get("blend"), dict):
        content = content["blend"]  # Of a recipe.
    names = set(content) if isinstance(content, dict) else set()
    if names != {"sources"} and not {"train"} <= names <= set(SPLITS):
        raise UserError(
            f"{where} is not a list 'sources', or lists 'train', 'valid' and 'test': write for "
            "example sources: [{path: web, weight: 0.7}, {path: code, weight: 0.3}]"
        )
    folder = Path(file).absolute().parent
    return BlendFile(
        {
            name: _sources(content[name], f"{where}, {name}", name in ("sources", "train"), folder)
            for name in ("sources", *SPLITS)
            if name in names
        }
    )


def _sources(entries: Any, where: str, trains: bool, folder: Path) -> tuple[BlendSource, ...]:
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{where} has no sources: list at least one, with its path")
    found = tuple(
        _source(entry, f"{where}, source {number}", trains, folder)
        for number, entry in enumerate(entries, 1)
    )
    weighted = [source for source in found if source.weight is not None]
    if weighted and len(weighted) < len(found):
        raise UserError(f"{where} has weights for some of its sources: give one to all, or to none")
    for number, source in enumerate(found):
        earlier = [s.path for s in found[:number]]
        if source.path in earlier:
            raise UserError(f"{where} names {source.path} twice: name it once")
    return found


def _source(entry: Any, where: str, trains: bool, folder: Path) -> BlendSource:
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str) or not entry["path"]:
        raise UserError(f"{where} has no path: write {{path: PREFIX, weight: 0.5}}")
    for key in entry:
        if key not in _KEYS:
            raise UserError(f"{where} has the key {key!r}: a source has {', '.join(_KEYS)}")
    weight, epochs = _number(entry, "weight", where), _number(entry, "epochs", where)
    if weight is not None and weight <= 0.0:
        raise UserError(f"{where} has the weight {weight:g}: give it one above 0, or leave it out")
    if epochs is not None and epochs < 1.0:
        raise UserError(f"{where} has epochs {epochs:g}: allow 1 or more")
    if epochs is not None and not trains:
        raise UserError(f"{where} has epochs, which are counted in training alone: leave them out")
    path: str = entry["path"]
    if not is_remote(path):
        path = os.path.normpath(folder / Path(path).expanduser())
    return BlendSource(path, weight, epochs)


def _number(entry: dict[str, Any], key: str, where: str) -> float | None:
    value = entry.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{where} has the {key} {value!r}: give it a number")
    return float(value)
