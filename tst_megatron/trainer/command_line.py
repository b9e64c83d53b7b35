"""A run's command line, from words to checked flags: before torch is imported, and again after.

The one idea: the checks are the same, and so are the words; what reads them is first a table of
Megatron's flags, which is there at once, and then Megatron. So nothing is refused at once that the
run would take, and what only Megatron can tell waits for it.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from typing import Any

from tst_megatron.backends import DEVICE_VARIABLE, FLAGS
from tst_megatron.corpora.blend import expand_blend
from tst_megatron.errors import UserError
from tst_megatron.methods.registry import check_flags
from tst_megatron.recipes import expand_recipe, named_recipe, read
from tst_megatron.recipes.keys import check_keys, read_words
from tst_megatron.stock.megatron_flags import NotKnownError
from tst_megatron.trainer.checkpoint_choice import exit_flags, goes_on_flags
from tst_megatron.trainer.checks import check_before_validation, check_checkpoint
from tst_megatron.trainer.corpus_tokenizer import corpus_tokenizer_flags
from tst_megatron.trainer.gpt2_tokenizer import DEFAULT_TOKENIZER
from tst_megatron.trainer.machine import check_lacking


def words_of(argv: list[str]) -> list[str]:
    """The command line of ``pretrain`` in Megatron's flags and ours alone.

    Raises:
        UserError: a recipe or a blend cannot be read, or has a key that is no flag.
    """
    name, _ = named_recipe(argv)
    if name is not None:
        # Megatron would name a flag that it does not know, and not the file that has it.
        check_keys(read(name))
    return expand_blend(expand_recipe(argv))


def check_words(
    words: Sequence[str], parse: Callable[[Sequence[str]], argparse.Namespace]
) -> argparse.Namespace:
    """Check flags by themselves, beside one another, and against the files that they name.

    Args:
        words: the command line.
        parse: reads it.

    Returns:
        The flags, with those of the corpora's own tokenizer, of the checkpoint to go on from, and
        of the step to end after.

    Raises:
        UserError: a flag is wrong, a file is missing, or they contradict one another.
    """
    flags = parse(words)
    if not hasattr(flags, "ledger") or flags.yaml_cfg is not None:
        raise UserError(
            "--yaml-cfg takes the place of the command line, so that none of our flags is read: "
            "give the flags on the command line, or as a --recipe"
        )
    check_flags(flags)
    if more := (*goes_on_flags(flags), *exit_flags(flags), *corpus_tokenizer_flags(flags)):
        flags = parse([*words, *more])
    check_before_validation(flags)
    return flags


def defaults_of(flags: argparse.Namespace) -> dict[str, Any]:
    """What a run has for flags of Megatron's that are not given, in place of Megatron's own.

    Args:
        flags: before validation.
    """
    defaults: dict[str, Any] = {"tokenizer_type": DEFAULT_TOKENIZER}
    if flags.eval_interval is None and not flags.eval_iters:
        # Megatron divides by it to find out that no sample is needed
        # (get_train_valid_test_num_samples).
        defaults["eval_interval"] = 1
    return defaults


def check_at_once(words: Sequence[str]) -> argparse.Namespace | None:
    """The same before torch is imported, and whether there is a checkpoint to go on from.

    Whether there is a GPU is torch's to say: what is refused is refused with one and without.

    Returns:
        The flags; None where it could not be told.

    Raises:
        UserError: as `check_words`, or the checkpoint cannot be gone on from.
    """
    refusals = []
    may_have_gpu = os.environ.get(DEVICE_VARIABLE) != "cpu"
    for machine_flags in ((), FLAGS) if may_have_gpu else (FLAGS,):
        try:
            flags = check_words([*machine_flags, *words], read_words)
            check_lacking(flags, may_have_gpu)
        except UserError as refusal:
            refusals.append(refusal)
        except NotKnownError:
            return None
        else:
            check_checkpoint(flags)
            return flags
    raise refusals[0]
