"""What a model that a method trained has beside a model of Hugging Face's families.

The one idea: such a model is a family's with something changed, so that a method says what is
changed, in code that transformers runs, in tensors and in settings, and whoever writes the family's
folder adds it without knowing the method. Several methods' changes are one model's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

type Reader = Callable[[str], Any]
"""Gives a tensor of a checkpoint by its key, whole."""


@dataclass(frozen=True)
class OwnCode:
    """Code that makes a family's model a method's.

    Attributes:
        prefix: in small letters before the family's ``model_type``, with a capital before classes.
        mixin: the class that is before the family's in the bases of the model's class.
        files: that lie beside the weights, the first with that class; they may import one another
            relatively, and transformers.
    """

    prefix: str
    mixin: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class OwnWeight:
    """A tensor that a family's model has not.

    Attributes:
        name: in the folder's model, or within the layer, where the checkpoint has it alike.
        shape: of it.
        layer: number of its layer, from 0; None of what is in none.
        key: in the checkpoint, of what is in no layer.
    """

    name: str
    shape: tuple[int, ...]
    layer: int | None = None
    key: str = ""


@dataclass(frozen=True)
class OwnModel:
    """What is added to a family's model.

    Attributes:
        title: what follows the family's name, as people call it.
        code: that it needs.
        settings: further fields of ``config.json``.
        weights: further tensors.
        read: keys of the checkpoint that settings are made of.
    """

    title: str
    code: OwnCode
    settings: Mapping[str, Any]
    weights: tuple[OwnWeight, ...]
    read: frozenset[str] = frozenset()
