"""The code that a model's folder brings along: what an export writes, and whether it may run.

The one idea: the methods' classes and the family's meet in a few lines that follow from their names
alone. So an export can have any methods together; and a folder is anybody's, so that nothing in it
runs but what is, byte for byte, what an export of ours writes there.
"""

import json
from collections.abc import Mapping, Sequence
from itertools import chain, combinations
from pathlib import Path
from typing import Any

from tst_megatron.errors import UserError
from tst_megatron.huggingface.families import FAMILIES, Family
from tst_megatron.methods.own_model import OwnCode
from tst_megatron.methods.registry import methods

MODULE = "modeling_own"
"""Of a folder, that has the model's classes."""
_UNNAMED = "custom_generate"
"""A folder in one that transformers trusts, whose code runs without a field that names it."""
_CLASSES = '''\
"""{title}, for transformers' trust_remote_code=True: tst-megatron wrote this file."""

from transformers import {config}, {architecture}
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)

{imports}


class {own_config}({config}):
    """Of `{own}`."""

    model_type = "{kind}"


class {own}({bases}, {architecture}):
    """{title}."""

    config_class = {own_config}


# Experts are a tensor each in a file, and may be one together in transformers' models.
if (mapping := get_checkpoint_conversion_mapping("{family}")) is not None:
    register_checkpoint_conversion_mapping("{kind}", mapping, overwrite=True)
'''


def kind_of(codes: Sequence[OwnCode], family: Family) -> str:
    """The ``model_type`` of a family's model with methods' code in it."""
    return "_".join((*(code.prefix for code in codes), family.name))


def class_of(codes: Sequence[OwnCode], family: Family) -> tuple[str, str]:
    """Likewise its class, and that of its configuration."""
    own = "".join(code.prefix.capitalize() for code in codes) + family.architecture
    return own, f"{own.removesuffix('ForCausalLM')}Config"


def files_of(codes: Sequence[OwnCode], family: Family) -> dict[str, bytes]:
    """All code that a folder has, by the files' names.

    Args:
        codes: of the model's methods, in their order.
        family: of the model.
    """
    own, own_config = class_of(codes, family)
    text = _CLASSES.format(
        title=f"A {family.title} with the code of {', '.join(code.mixin for code in codes)}",
        config=f"{family.architecture.removesuffix('ForCausalLM')}Config",
        architecture=family.architecture,
        imports="\n".join(f"from .{code.files[0].stem} import {code.mixin}" for code in codes),
        own_config=own_config,
        own=own,
        kind=kind_of(codes, family),
        bases=", ".join(code.mixin for code in codes),
        family=family.name,
    )
    found = {f"{MODULE}.py": text.encode()}
    for file in chain.from_iterable(code.files for code in codes):
        found[file.name] = file.read_bytes()
    return found


def runs_own_code(folder: Path) -> bool:
    """Whether transformers is told to trust a folder: it is one of ours that has code.

    Raises:
        UserError: the folder's model is code of somebody else's, and nothing without it.
    """
    config = _config(folder)
    named = _named_in(config)
    if not named:
        return False
    if named == {MODULE} and not (folder / _UNNAMED).exists():
        ours = _ours(config.get("model_type"))
        if ours is not None and all(_is(folder / name, code) for name, code in ours.items()):
            return True
    _check_goes_without(folder, config, named)
    return False


def _ours(kind: Any) -> dict[str, bytes] | None:
    """The files of a ``model_type`` of ours; None of any other."""
    codes = [method.own_code for method in methods()]
    there = [code for code in codes if code is not None]
    for number in range(1, len(there) + 1):
        for some in combinations(there, number):
            for family in FAMILIES.values():
                if kind == kind_of(some, family):
                    return files_of(some, family)
    return None


def _is(file: Path, code: bytes) -> bool:
    return file.is_file() and file.read_bytes() == code


def _named_in(config: Mapping[str, Any]) -> set[str]:
    """Modules that ``auto_map`` of the configuration names, another repository's with its name."""
    found = config.get("auto_map")
    if not isinstance(found, dict):
        return set()
    return {str(name).rpartition(".")[0] for name in found.values()}


def _config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return {}  # transformers says what is wrong with it.
    return found if isinstance(found, dict) else {}


def _check_goes_without(folder: Path, config: Mapping[str, Any], named: set[str]) -> None:
    from transformers import CONFIG_MAPPING

    kind = config.get("model_type")
    if kind not in CONFIG_MAPPING:
        raise UserError(
            f"the model in {folder} is of {kind}, which its own code computes "
            f"({', '.join(sorted(named))}), and that is not what this version of tst-megatron "
            "writes, so it is not run: export the model again, or load it with transformers and "
            "trust_remote_code=True if you trust it"
        )
