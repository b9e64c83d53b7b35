"""Whether the code that a model's folder brings along may run.

The one idea: a folder is anybody's, so that nothing in it runs but what is, byte for byte, what an
export of ours writes there.
"""

import json
from pathlib import Path
from typing import Any

from tst_megatron.errors import UserError
from tst_megatron.methods.registry import methods

_UNNAMED = "custom_generate"
"""A folder in one that transformers trusts, whose code runs without a field that names it."""


def runs_own_code(folder: Path) -> bool:
    """Whether transformers is told to trust a folder: it is one of ours that has code.

    Raises:
        UserError: the folder's model is code of somebody else's, and nothing without it.
    """
    named = _named_in(folder)
    if not named:
        return False
    ours = [method.model_code for method in methods() if method.model_code is not None]
    is_ours = any(named == {one.stem} and _is_same(folder / one.name, one) for one in ours)
    if is_ours and not (folder / _UNNAMED).exists():
        return True
    _check_goes_without(folder, named)
    return False


def _is_same(file: Path, code: Path) -> bool:
    return file.is_file() and file.read_bytes() == code.read_bytes()


def _named_in(folder: Path) -> set[str]:
    """Modules that ``auto_map`` of the configuration names, another repository's with its name."""
    found = _config(folder).get("auto_map")
    if not isinstance(found, dict):
        return set()
    return {str(name).rpartition(".")[0] for name in found.values()}


def _config(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return {}  # transformers says what is wrong with it.
    return found if isinstance(found, dict) else {}


def _check_goes_without(folder: Path, named: set[str]) -> None:
    from transformers import CONFIG_MAPPING

    kind = _config(folder).get("model_type")
    if kind not in CONFIG_MAPPING:
        raise UserError(
            f"the model in {folder} is of {kind}, which its own code computes "
            f"({', '.join(sorted(named))}), and that is not what this version of tst-megatron "
            "writes, so it is not run: export the model again, or load it with transformers and "
            "trust_remote_code=True if you trust it"
        )
