"""Flags that Megatron reads and does not heed, against its source; and what is said of them."""

import argparse
import re
from dataclasses import fields
from functools import cache
from pathlib import Path

import megatron.training
import pytest
from counted_corpora import parse
from megatron.core.transformer import TransformerConfig
from megatron.training import argument_utils
from megatron.training.arguments import add_megatron_arguments
from megatron.training.config import SchedulerConfig, TrainingConfig, ValidationConfig
from megatron.training.models import GPTModelConfig, HybridModelConfig

from tst_megatron.errors import UserError
from tst_megatron.stock import unheeded
from tst_megatron.stock.unheeded import (
    CHANGE_NO_RESULT,
    CHANGE_THE_RUN,
    ROPE_SCALING_FACTOR,
    say_unheeded,
)
from tst_megatron.trainer.reading import reading_from_args

# Where flags are made, and not heeded.
_DEFINITIONS = ("training/arguments.py", "training/config/", "training/yaml_arguments.py")
# Its validation makes apply_wd_to_qk_layernorm of it.
_TRANSLATED = {"no_weight_decay_cond_type"}
_HEEDED = re.compile(r"""\.([a-z]\w+)|['"]([a-z]\w+)['"]""")


@cache
def heeded() -> frozenset[str]:
    """Names that Megatron's source reads as attributes, or has as words."""
    root = Path(megatron.training.__path__[0]).parent
    names: set[str] = set()
    for file in root.rglob("*.py"):
        if not file.relative_to(root).as_posix().startswith(_DEFINITIONS):
            for attribute, word in _HEEDED.findall(file.read_text(errors="replace")):
                names.add(attribute or word)
    return frozenset(names)


def test_megatron_heeds_none_of_them() -> None:
    assert not heeded() & {*CHANGE_THE_RUN, *CHANGE_NO_RESULT}


def test_it_heeds_every_other_setting_of_model_and_training() -> None:
    flags = {action.dest for action in add_megatron_arguments(argparse.ArgumentParser())._actions}
    for config in (TransformerConfig, TrainingConfig, SchedulerConfig, ValidationConfig):
        settings = {field.name for field in fields(config)} & flags
        unheeded_there = settings - heeded() - _TRANSLATED
        assert unheeded_there <= {*CHANGE_THE_RUN, *CHANGE_NO_RESULT}, config


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--rampup-batch-size", "2", "2", "400"), "--step-batch-size-schedule '0:256"),
        (("--openai-gelu",), "--openai-gelu does nothing"),
        (("--vocab-extra-ids=100",), "--vocab-extra-ids does nothing"),
        (("--batch-size=4",), "--batch-size is gone from Megatron: use --micro-batch-size"),
        (("--checkpoint-activations",), "use --recompute-activations"),
        (("--use-rope-scaling", "--rope-scaling-factor=32"), "--rope-scaling-factor 32 does"),
        (("--use-rope-scaling", "--hybrid-layer-pattern=*-"), "nothing to a hybrid model"),
    ],
)
def test_they_are_refused(flags, says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        unheeded.check_unheeded(parse(*flags))


def test_a_budget_is_not_worked_out_from_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--rampup-batch-size does nothing"):
        reading_from_args(parse("--rampup-batch-size", "2", "2", "400"))


def test_what_changes_no_result_is_said(caplog) -> None:
    args = parse("--use-flash-attn")
    unheeded.check_unheeded(args)
    say_unheeded(args)
    assert "--use-flash-attn does nothing in this Megatron: --attention-backend" in caplog.text
    caplog.clear()
    say_unheeded(parse())
    assert not caplog.text


def test_no_model_is_given_a_factor_of_rope_scaling() -> None:
    """Until Megatron hands it on, and an export may write another than 8."""
    source = Path(argument_utils.__file__).read_text()
    assert "rope_scaling_factor" not in source
    assert GPTModelConfig(transformer=None).rope_scaling_factor == ROPE_SCALING_FACTOR
    assert "rope_scaling" not in {field.name for field in fields(HybridModelConfig)}
