"""``tst-megatron compressor measure``: how far a compressor gets with some text, and how fast."""

import argparse
import json
from pathlib import Path

from tst_megatron.corpora.commands.input_flags import add_input_arguments

EXAMPLES = """\
examples:
  tst-megatron compressor measure ct16 corpus.jsonl notes.txt
  tst-megatron compressor measure ct16 'fineweb/*.parquet' --max-bytes 100000000 --json
"""
_MAX_BYTES = 64 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("compressor", type=Path, metavar="FOLDER", help="of compressor build")
    add_input_arguments(parser)
    parser.add_argument(
        "--max-bytes",
        type=int,
        default=_MAX_BYTES,
        metavar="N",
        help="of text that are looked at, the first ones (64 MiB)",
    )
    parser.add_argument("--json", action="store_true", help="for a program")


def main(args: argparse.Namespace) -> None:
    """Measure, and give the text back to see that it is the same.

    Raises:
        UserError: the compressor or an input is wrong, or the text does not come back.
    """
    from rich.console import Console

    from tst_megatron.corpora.commands.compressor_flags import byte_documents
    from tst_megatron.corpora.compression.compressor import read_compressor
    from tst_megatron.corpora.compression.making import up_to
    from tst_megatron.corpora.compression.measuring import measured
    from tst_megatron.errors import UserError

    if args.max_bytes < 1:
        raise UserError(f"--max-bytes {args.max_bytes} is below 1: leave it out")
    compressor = read_compressor(args.compressor, on_gpu=True)
    console = Console(stderr=args.json)
    with console.status("Reading"):
        documents = [one for one in up_to(byte_documents(args, console), args.max_bytes) if one]
    if not documents:
        raise UserError("the inputs hold no text: name others")
    found = measured(compressor.code, documents, console)
    if args.json:
        print(json.dumps(found.as_json()))
    else:
        for line in found.lines():
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    if not found.lossless:
        raise UserError(
            f"{args.compressor} does not give the text back: this is a fault of tst-megatron, or "
            "its byte model gives other numbers on this machine than where it was used before"
        )
