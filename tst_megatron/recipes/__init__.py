"""Whole training recipes, their reader and their commands: ``recipes.read("tiny-tst")``."""

from tst_megatron.recipes.files import Variant, is_path, names
from tst_megatron.recipes.recipe import (
    COMMAND_LINE,
    Recipe,
    Setting,
    expand_recipe,
    flags,
    load,
    named_recipe,
    read,
)

__all__ = [
    "COMMAND_LINE",
    "Recipe",
    "Setting",
    "Variant",
    "expand_recipe",
    "flags",
    "is_path",
    "load",
    "named_recipe",
    "names",
    "read",
]
