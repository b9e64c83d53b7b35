"""Classes of transformers' that an export writes for a model with methods' code in it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tst_megatron.huggingface.families import FAMILIES
from tst_megatron.huggingface.own_code import MODULE, class_of, files_of
from tst_megatron.methods.own_model import OwnCode


def own_classes(folder: Path, family: str, codes: Sequence[OwnCode]) -> tuple[Any, Any]:
    """Model and configuration, of the files that an export writes, as transformers loads them.

    Args:
        folder: that the files are written to.
        family: its name.
        codes: of methods.
    """
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    for name, code in files_of(codes, FAMILIES[family]).items():
        (folder / name).write_bytes(code)
    model, config = class_of(codes, FAMILIES[family])
    return tuple(
        get_class_from_dynamic_module(f"{MODULE}.{one}", folder) for one in (model, config)
    )
