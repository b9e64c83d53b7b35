"""What a checkpoint's model has beside a family's, in the family's folder.

The one idea: each method says what that is (`methods.own_model`), and here it becomes weights and a
configuration as a family has them, so that what writes a folder asks no method.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from tst_megatron.checkpoints.saved import Saved
from tst_megatron.errors import UserError
from tst_megatron.huggingface.families import Family
from tst_megatron.huggingface.own_code import MODULE, class_of, kind_of
from tst_megatron.huggingface.weights import Weight
from tst_megatron.methods.own_model import OwnModel
from tst_megatron.methods.registry import methods


def own_models_of(saved: Saved) -> tuple[OwnModel, ...]:
    """What a checkpoint's model has beside a family's, of every method that has anything.

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

    found = []
    for method in methods():
        before = method.remembered(saved.args)
        if before is None:
            continue
        if (why := method.why_not_exported(before, saved.args)) is not None:
            raise UserError(f"the model in {saved.folder} {why}")
        if (own := method.own_model(before, saved.args, read)) is not None:
            found.append(own)
    return tuple(found)


def own_weights(owns: Sequence[OwnModel]) -> Iterator[Weight]:
    """Their tensors, whole ones each."""
    for own in owns:
        for one in own.weights:
            rows = ((0, one.shape[0]),)
            if one.layer is None:
                name = f"model.{one.name}"
                yield Weight(name, one.shape, None, None, one.key, None, rows)
            else:
                name = f"model.layers.{one.layer}.{one.name}"
                yield Weight(name, one.shape, one.layer, "attention", one.name, None, rows)


def with_own(config: Mapping[str, Any], family: Family, owns: Sequence[OwnModel]) -> dict[str, Any]:
    """A family's ``config.json`` as that of a model with more in it, whose code lies beside.

    Its ``model_type`` is no library's, so that nobody takes it for the family's.

    Args:
        config: of `families.config_of`.
        family: of the model.
        owns: what is more.
    """
    codes = [own.code for own in owns]
    model, of_model = class_of(codes, family)
    settings = [one for own in owns for one in own.settings.items()]
    return {
        **config,
        "architectures": [model],
        "model_type": kind_of(codes, family),
        "auto_map": {
            "AutoConfig": f"{MODULE}.{of_model}",
            "AutoModelForCausalLM": f"{MODULE}.{model}",
        },
        **dict(settings),
    }
