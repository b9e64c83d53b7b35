"""A run's command line, from words to checked flags: before torch is imported, and again after.

The one idea: the checks are the same, and so are the words; what reads them is first a table of
Megatron's flags, which is there at once, and then Megatron. So nothing is refused at once that the
run would take, and what only Megatron can tell waits for it.
"""

import argparse
import os
from collections.abc import Callable, Sequence

from tst_megatron.backends import DEVICE_VARIABLE, FLAGS
from tst_megatron.corpora.blend import expand_blend
from tst_megatron.errors import UserError
from tst_megatron.methods.registry import check_flags
from tst_megatron.recipes import expand_recipe, named_recipe, read
from tst_megatron.recipes.keys import check_keys, read_words
from tst_megatron.stock.megatron_flags import NotKnownError
from tst_megatron.trainer.checkpoint_choice import goes_on_flags
from tst_megatron.trainer.checks import check_before_validation, check_checkpoint
from tst_megatron.trainer.corpus_tokenizer import corpus_tokenizer_flags
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
        The flags, with those of the corpora's own tokenizer, and of the checkpoint to go on from.

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
    if more := (*goes_on_flags(flags), *corpus_tokenizer_flags(flags)):
        flags = parse([*words, *more])
    check_before_validation(flags)
    return flags


def check_at_once(words: Sequence[str]) -> bool:
    """The same before torch is imported, and whether there is a checkpoint to go on from.

    Whether there is a GPU is torch's to say: what is refused is refused with one and without.

    Returns:
        Whether it could be told.

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
            return False
        else:
            check_checkpoint(flags)
            return True
    raise refusals[0]
