"""What a model that a method trained has beside a model of Hugging Face's families.

The one idea: such a model is a family's with some layers changed, so that a method says what is
changed, in code that transformers runs, in tensors and in settings, and whoever writes the family's
folder adds it without knowing the method.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

type Reader = Callable[[str], Any]
"""Gives a tensor of a checkpoint by its key, whole."""


@dataclass(frozen=True)
class OwnWeight:
    """A tensor of a layer that a family's has not.

    Attributes:
        layer: number of it, from 0.
        name: within the layer, in the checkpoint and in the folder alike.
        shape: of it.
    """

    layer: int
    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class OwnModel:
    """What is added to a family's model.

    Attributes:
        title: what follows the family's name, as people call it.
        code: the file that has the model's classes: a family's names with ``prefix`` before.
        prefix: in small letters before the family's ``model_type``, with a capital before classes.
        settings: further fields of ``config.json``.
        weights: further tensors.
        read: keys of the checkpoint that settings are made of.
    """

    title: str
    code: Path
    prefix: str
    settings: Mapping[str, Any]
    weights: tuple[OwnWeight, ...]
    read: frozenset[str]
