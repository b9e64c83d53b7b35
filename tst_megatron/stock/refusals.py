"""What Megatron refuses, as one sentence.

Megatron checks flags with assertions, many without a message, and what reads tokenizers and W&B's
client raise what they like: each would end in a traceback of every rank.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from tst_megatron.errors import UserError

_REFUSALS = (AssertionError, ValueError, RuntimeError)
_ITS_CHECKS = "megatron/training/arguments.py"


@contextmanager
def refusals_as_sentences() -> Iterator[None]:
    """Turn what Megatron raises while it reads flags into a `UserError`.

    Raises:
        UserError: Megatron refuses the flags, cannot read the tokenizer, or W&B does not start.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        raise UserError(sentence) from error


def _sentence(error: Exception) -> str | None:
    """What the user is told; None for what is no refusal."""
    frames = traceback.extract_tb(error.__traceback__)
    said = " ".join(str(error).split())
    if any(frame.name == "build_tokenizer" for frame in frames):
        return (
            f"the tokenizer cannot be read ({said or type(error).__name__}): check "
            "--tokenizer-type and the files it is read from"
        )
    if type(error).__module__.partition(".")[0] == "wandb":
        return (
            f"--wandb-project does not start ({said}): log in, set WANDB_MODE=offline, or leave "
            "it out"
        )
    if isinstance(error, _REFUSALS) and said:
        return f"Megatron refuses these flags: {said}"
    if isinstance(error, _REFUSALS) or frames[-1].filename.endswith(_ITS_CHECKS):
        # What an assertion without a message asserts is one, and so is the line of its own slips.
        return f"Megatron refuses these flags: {frames[-1].line}"
    return None


def check_vocab_size(told: int | None, size: int) -> None:
    """Refuse a ``--vocab-size`` that has no room for the tokenizer beside it.

    Megatron does not read the flag there, so that the model would be of another size than is told:
    of the tokens without those that were added, say.

    Args:
        told: the flag.
        size: tokens of the tokenizer.

    Raises:
        UserError: it is too small.
    """
    if told is not None and told < size:
        raise UserError(
            f"--vocab-size {told} is below the tokenizer's {size} tokens, added ones among them: "
            "leave it out"
        )
