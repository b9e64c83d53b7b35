"""What a checkpoint's model has beside a family's, in the family's folder.

The one idea: the method says what that is (`methods.own_model`), and here it becomes weights and a
configuration as a family has them, so that what writes a folder asks no method.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from tst_megatron.checkpoints.saved import Saved
from tst_megatron.errors import UserError
from tst_megatron.huggingface.families import Family
from tst_megatron.huggingface.weights import Weight
from tst_megatron.methods.own_model import OwnModel
from tst_megatron.methods.registry import methods


def own_model_of(saved: Saved) -> OwnModel | None:
    """What a checkpoint's model has beside a family's, by the method that has anything.

    Args:
        saved: the checkpoint.

    Raises:
        UserError: transformers could not run it, or the checkpoint lacks a tensor of it.
    """

    def read(key: str) -> torch.Tensor:
        if key not in saved.tensors:
            raise UserError(
                f"{saved.folder} has no {key}, which its arguments say that its model has: it is "
                "another model's, or was cut short"
            )
        size = saved.tensors[key].size
        return saved.part(key, (0,) * len(size), size)

    found = None
    for method in methods():
        before = method.remembered(saved.args)
        if before is None:
            continue
        if (why := method.why_not_exported(before, saved.args)) is not None:
            raise UserError(f"the model in {saved.folder} {why}")
        found = found or method.own_model(before, saved.args, read)
    return found


def own_weights(own: OwnModel) -> Iterator[Weight]:
    """Its tensors, whole ones of a layer each."""
    for one in own.weights:
        rows = ((0, one.shape[0]),)
        name = f"model.layers.{one.layer}.{one.name}"
        yield Weight(name, one.shape, one.layer, "attention", one.name, None, rows)


def with_own(config: Mapping[str, Any], family: Family, own: OwnModel) -> dict[str, Any]:
    """A family's ``config.json`` as that of a model with more in it, whose code lies beside.

    Its ``model_type`` is no library's, so that nobody takes it for the family's.

    Args:
        config: of `families.config_of`.
        family: of the model.
        own: what is more.
    """
    classes = f"{own.prefix.capitalize()}{family.architecture}"
    module = own.code.stem
    return {
        **config,
        "architectures": [classes],
        "model_type": f"{own.prefix}_{family.name}",
        "auto_map": {
            "AutoConfig": f"{module}.{classes.removesuffix('ForCausalLM')}Config",
            "AutoModelForCausalLM": f"{module}.{classes}",
        },
        **own.settings,
    }
