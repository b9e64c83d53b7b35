"""Train a SentencePiece tokenizer on a sample of a corpus, of bounded size however large it is."""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

import sentencepiece

from tst_megatron.errors import UserError
from tst_megatron.files import replace_when_whole

# A vocabulary of hundreds is settled by far less text than this.
MAX_LINES = 400_000
MIN_VOCAB_SIZE = 320  # 256 bytes, the special tokens, and some characters.

# SentencePiece leaves a longer line out; in characters, so that no UTF-8 is longer.
_LINE_BYTES = 4192
_LINE_CHARACTERS = _LINE_BYTES // 4
# SentencePiece trains on lines, so it never sees what ends them.
_SYMBOLS = ("\n", "\t")


def train_tokenizer(
    documents: Iterable[str],
    model_file: Path,
    vocab_size: int,
    model: Literal["bpe", "unigram"] = "bpe",
    symbols: Sequence[str] = (),
    normalization: Literal["identity", "nmt_nfkc"] = "identity",
    max_lines: int = MAX_LINES,
    seed: int | None = None,
) -> None:
    """Train a SentencePiece model that takes text as it is, byte for byte.

    Bytes back up what the vocabulary lacks, nothing is normalised, and runs of spaces are pieces:
    the text of programs survives it.

    Args:
        documents: the text.
        model_file: where to write the ``.model``.
        vocab_size: pieces, bytes and special tokens in all.
        model: SentencePiece's ``model_type``.
        symbols: strings that are always one piece, beside the end of a line and the tab.
        normalization: ``identity``, or ``nmt_nfkc`` for SentencePiece's own, under which Unicode's
            compatible characters become the same text.
        max_lines: lines that are held and trained on.
        seed: draws them from all of the text; None for the first of it, so that no more is read.

    Raises:
        UserError: the vocabulary is too small, or larger than the text has pieces for; or the
            text is empty.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise UserError(f"a vocabulary of {vocab_size} is too small: use {MIN_VOCAB_SIZE} or more")
    lines = (line for document in documents for line in _lines(document))
    sample = islice(lines, max_lines) if seed is None else iter(_drawn(lines, max_lines, seed))
    if (first := next(sample, None)) is None:
        raise UserError("there is no text to train a tokenizer on: the inputs are empty")
    try:
        with replace_when_whole(model_file) as file:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=_chained(first, sample),
                model_writer=file,
                vocab_size=vocab_size,
                model_type=model,
                byte_fallback=True,
                normalization_rule_name=normalization,
                remove_extra_whitespaces=False,
                add_dummy_prefix=False,
                allow_whitespace_only_pieces=True,
                user_defined_symbols=list(dict.fromkeys((*_SYMBOLS, *symbols))),
                max_sentence_length=_LINE_BYTES,
                minloglevel=2,
            )
    except RuntimeError as error:
        reason = str(error).rpartition("] ")[2] or str(error)
        raise UserError(f"no tokenizer of {vocab_size} pieces can be trained: {reason}") from None


def _chained(first: str, others: Iterator[str]) -> Iterator[str]:
    yield first
    yield from others


def _lines(document: str) -> Iterator[str]:
    """Lines with more than space in them, long ones in pieces."""
    for line in document.split("\n"):
        if not line.strip():
            continue
        if len(line) <= _LINE_CHARACTERS or len(line.encode()) <= _LINE_BYTES:
            yield line
            continue
        for begin in range(0, len(line), _LINE_CHARACTERS):
            yield line[begin : begin + _LINE_CHARACTERS]


def _drawn(lines: Iterator[str], number: int, seed: int) -> list[str]:
    """A uniform sample of an iterator without end, in memory for ``number`` of its lines.

    Algorithm L (Li, 1994), which draws how many lines to pass over and not each line's fate.
    """
    rng = random.Random(seed)
    kept = list(islice(lines, number))
    if len(kept) < number:
        return kept
    share = 1.0
    while True:
        share *= math.exp(math.log(1.0 - rng.random()) / number)
        passed = int(math.log(1.0 - rng.random()) / math.log1p(-share))
        line = next(islice(lines, passed, None), None)
        if line is None:
            return kept
        kept[rng.randrange(number)] = line
