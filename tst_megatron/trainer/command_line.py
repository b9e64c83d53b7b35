"""A run's command line, from words to checked flags: before torch is imported, and again after.

The one idea: the checks are the same, and so are the words; what reads them is first a table of
Megatron's flags, which is there at once, and then Megatron. So nothing is refused at once that the
run would take, and what only Megatron can tell waits for it.
"""

import argparse
import os
from collections.abc import Callable, Sequence

from tst_megatron.corpora.blend import expand_blend
from tst_megatron.errors import UserError
from tst_megatron.methods.registry import check_flags
from tst_megatron.recipes import expand_recipe, named_recipe, read
from tst_megatron.recipes.keys import check_keys, read_words
from tst_megatron.stock.megatron_flags import NotKnownError
from tst_megatron.trainer.checks import check_before_validation
from tst_megatron.trainer.corpus_tokenizer import corpus_tokenizer_flags
from tst_megatron.trainer.cpu import DEVICE_VARIABLE, FLAGS


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
    words: Sequence[str], parse: Callable[[Sequence[str]], argparse.Namespace], on_gpu: bool
) -> argparse.Namespace:
    """Check flags by themselves, beside one another, and against the files that they name.

    Args:
        words: the command line.
        parse: reads it.
        on_gpu: whether the run will have GPUs.

    Returns:
        The flags, with those of the corpora's own tokenizer.

    Raises:
        UserError: a flag is wrong, a file is missing, or they contradict one another.
    """
    flags = parse(words)
    check_flags(flags, on_gpu)
    if tokenizer_flags := corpus_tokenizer_flags(flags):
        flags = parse([*words, *tokenizer_flags])
    check_before_validation(flags, on_gpu)
    return flags


def check_at_once(words: Sequence[str]) -> None:
    """The same before torch is imported.

    Whether there is a GPU is torch's to say: what is refused is refused with one and without.

    Raises:
        UserError: as `check_words`.
    """
    refusals = []
    for on_gpu in (False,) if os.environ.get(DEVICE_VARIABLE) == "cpu" else (True, False):
        try:
            check_words([*(() if on_gpu else FLAGS), *words], read_words, on_gpu)
        except UserError as refusal:
            refusals.append(refusal)
        except NotKnownError:
            return
        else:
            return
    raise refusals[0]
