"""Flags that say which tokenizer is meant."""

import argparse

from tst_megatron.errors import UserError

TOKENIZERS = (
    "a SentencePiece .model, a Hugging Face tokenizer.json or its folder, a folder with GPT-2's "
    "vocab.json and merges.txt, a tiktoken vocabulary, a compressor's folder, a proxy's, bytes, "
    "or null:VOCAB_SIZE"
)


def add_gpt2_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that name GPT-2's two files, as Megatron has them."""
    parser.add_argument(
        "--vocab-file", metavar="FILE", help="a vocabulary of GPT-2's, with --merge-file"
    )
    parser.add_argument("--merge-file", metavar="FILE", help="the merges of --vocab-file")


def tokenizer_spec(args: argparse.Namespace, flag: str) -> str:
    """The tokenizer that the flags name, as `description.describe` takes it.

    Args:
        args: with ``tokenizer``, and what `add_gpt2_arguments` adds.
        flag: how the user names ``tokenizer``.

    Raises:
        UserError: they name none, half of one, or two.
    """
    two = (args.vocab_file, args.merge_file)
    if two == (None, None):
        if args.tokenizer is None:
            raise UserError(f"no tokenizer is named: give {flag}, or --vocab-file and --merge-file")
        return str(args.tokenizer)
    if args.tokenizer is not None:
        raise UserError(f"{flag} and --vocab-file or --merge-file are two tokenizers: give one")
    if None in two:
        raise UserError("--vocab-file and --merge-file are two halves of a tokenizer: give both")
    return ",".join(two)
