"""Flags that say which files are read, and what in them is a document."""

import argparse
from typing import TYPE_CHECKING, Literal, get_args

from tst_megatron.errors import UserError

if TYPE_CHECKING:
    from tst_megatron.corpora.reading.documents import ReadOptions


def add_input_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what is read, and how."""
    from tst_megatron.corpora.reading.inputs import Format

    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="files, folders and globs: JSON lines, JSON arrays, CSV, TSV, Parquet, Arrow, text; "
        "also compressed as .gz, .zst, .bz2, .xz, .lz4",
    )
    parser.add_argument(
        "--format", choices=get_args(Format), help="of all inputs, instead of by their names"
    )
    parser.add_argument(
        "--field", default="text", help="of the text, a dotted path, or a column; default text"
    )
    parser.add_argument(
        "--where", metavar="EXPR", help="keep records for which this holds: 'score>=3'"
    )
    parser.add_argument(
        "--text-documents",
        choices=("file", "blank-line"),
        default="file",
        help="in text files a document is the whole file, or ends at a blank line",
    )
    parser.add_argument(
        "--on-error",
        choices=("fail", "skip"),
        default="fail",
        help="at a bad record: stop and say which, or leave it out, count it and list it (as is "
        "always done with documents that give no token)",
    )
    parser.add_argument(
        "--max-document-bytes",
        type=int,
        default=256 << 20,
        metavar="N",
        help="a larger document is a bad record; default 256 MiB",
    )


def read_options(args: argparse.Namespace, reads: Literal["text", "ids"]) -> "ReadOptions":
    """How the inputs are read, as the flags of `add_input_arguments` say.

    Raises:
        UserError: a flag is wrong.
    """
    from tst_megatron.corpora.reading.documents import ReadOptions
    from tst_megatron.corpora.reading.fields import parse_where

    if args.max_document_bytes < 1:
        raise UserError(f"--max-document-bytes {args.max_document_bytes} is below 1")
    return ReadOptions(
        field=args.field,
        where=None if args.where is None else parse_where(args.where),
        text_documents=args.text_documents,
        reads=reads,
        max_document_bytes=args.max_document_bytes,
    )
