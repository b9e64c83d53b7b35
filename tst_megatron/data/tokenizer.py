"""SentencePiece tokenizers for small models, trained on the corpus itself."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import sentencepiece

from tst_megatron.errors import UserError
from tst_megatron.files import replace_when_whole

# A vocabulary of hundreds is settled by far less text than this.
_MAX_LINES = 400_000
_MIN_VOCAB_SIZE = 320  # 256 bytes, the special tokens, and some characters.


def train_tokenizer(documents: Iterable[str], model_file: Path, vocab_size: int) -> None:
    """Train a SentencePiece BPE model that takes text as it is, byte for byte.

    Bytes back up what the vocabulary lacks, nothing is normalised, and runs of spaces are pieces:
    the text of programs survives it.

    Args:
        documents: the text.
        model_file: where to write the ``.model``.
        vocab_size: pieces, bytes and special tokens in all.

    Raises:
        UserError: the vocabulary is too small, or larger than the text has pieces for.
    """
    if vocab_size < _MIN_VOCAB_SIZE:
        raise UserError(f"a vocabulary of {vocab_size} is too small: use {_MIN_VOCAB_SIZE} or more")
    lines = (line for document in documents for line in document.split("\n") if line.strip())
    try:
        with replace_when_whole(model_file) as file:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=islice(lines, _MAX_LINES),
                model_writer=file,
                vocab_size=vocab_size,
                model_type="bpe",
                byte_fallback=True,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                add_dummy_prefix=False,
                allow_whitespace_only_pieces=True,
                # SentencePiece trains on lines, so it never sees what ends them.
                user_defined_symbols=["\n", "\t"],
                minloglevel=2,
            )
    except RuntimeError as error:
        reason = str(error).rpartition("] ")[2] or str(error)
        raise UserError(f"no tokenizer of {vocab_size} pieces can be trained: {reason}") from None


def load_tokenizer(model_file: Path) -> sentencepiece.SentencePieceProcessor:
    """The trained tokenizer."""
    return sentencepiece.SentencePieceProcessor(model_file=str(model_file))
