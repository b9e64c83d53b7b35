"""How much text a validation's loss is of, and which: what a ledger says of its held-out text.

The one idea: what stands beside the loss is no reason to end a run, so what cannot be told of the
text is said in the log and left out.
"""

import argparse
import logging

from tst_megatron.corpora.sources import sources_of_split
from tst_megatron.corpora.split_text import SplitText, bytes_a_token, text_of_split

logger = logging.getLogger(__name__)


def text_held_out(args: argparse.Namespace) -> SplitText | None:
    """The text of the validation split, for the header.

    Its bytes are counted where a part of a corpus is held out and every validation goes through all
    of it, beside which counting is nothing.

    Args:
        args: Megatron's arguments.

    Returns:
        None where it is not known.
    """
    if args.sft or args.mock_data or args.fim_data:
        return None
    for counts in (True, False) if args.full_validation else (False,):
        try:
            return text_of_split(sources_of_split(args, "valid"), counts)
        except Exception as error:  # Libraries raise anything for files that they cannot read.
            what = "how many bytes of text are" if counts else "which text is"
            logger.warning("%s held out is not told in the ledger: %s", what, error)
    return None


def amount_evaluated(
    args: argparse.Namespace, held_out: SplitText | None = None
) -> dict[str, int | None]:
    """How much text a validation's next-token loss is measured on: its ``tokens`` and ``bytes``.

    Tokens are those of the sequences, masked ones among them. Which bytes the sequences are of is
    not known, so these are the tokens times the mean bytes a token: of the held-out text itself
    where its bytes are known, else of the corpora, as their manifests have it, in the shares of the
    blend. None where it is not known.

    Args:
        args: Megatron's arguments when it evaluates.
        held_out: as of `text_held_out`.
    """
    iters, size = args.eval_iters, args.eval_global_batch_size
    if isinstance(iters, list):  # Of several validation sets.
        iters = sum(iters)
    if not isinstance(iters, int) or not isinstance(size, int):
        return {"tokens": None, "bytes": None}
    if args.full_validation:
        # Megatron's sampler of full validations gives one sequence a micro-batch, whatever the
        # flag says (megatron/training/datasets/data_samplers.py).
        size //= args.eval_micro_batch_size
    tokens = iters * size * args.seq_length
    if held_out is not None and held_out.bytes is not None and held_out.tokens:
        mean: float | None = held_out.bytes / held_out.tokens
    elif args.sft or args.mock_data:
        mean = None
    else:
        mean = bytes_a_token(sources_of_split(args, "valid"))
    return {"tokens": tokens, "bytes": None if mean is None else round(tokens * mean)}
