"""``tst-megatron compressor train``: a byte model, which says what windows a compressor has."""

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from tst_megatron.corpora.commands.input_flags import add_input_arguments, read_options
from tst_megatron.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from tst_megatron.corpora.compression.byte_models import StoredByteModel
    from tst_megatron.experiments.byte_model import TrainedByteModel

EXAMPLES = """\
examples:
  tst-megatron compressor train corpus/ --output m1
  tst-megatron compressor train 'fineweb/**/*.parquet' --output m1 --order 6 --max-bytes 1000000000
  tst-megatron compressor train 'fineweb/**/*.parquet' --output m1-3m --size 3m --steps 200000

Counts are made in seconds and give the same numbers on every machine. A model that is trained goes
on where it was cut off, when the same command is given again.
"""
_COUNTS = "counts"
_SIZES = (_COUNTS, "tiny", "3m")
_ORDER = 5
_MAX_BYTES = 64 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    add_input_arguments(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="is made")
    parser.add_argument(
        "--size",
        choices=_SIZES,
        default=_COUNTS,
        help="counts of bytes after the last few (default), or a transformer of recipe m1-tiny or "
        "m1-3m, trained by this project",
    )
    parser.add_argument(
        "--order",
        type=int,
        metavar="N",
        help=f"of counts: bytes that are looked back at, 0 to 6 (default {_ORDER})",
    )
    parser.add_argument(
        "--max-bytes",
        type=int,
        metavar="N",
        help="of counts: of text that are counted, the first ones (64 MiB)",
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="of a transformer; default 3,000 or 50,000"
    )


def main(args: argparse.Namespace) -> None:
    """Make the byte model that the flags ask for.

    Raises:
        UserError: a flag, an input or a record is wrong, or the model cannot be trained.
    """
    from rich.console import Console

    from tst_megatron.corpora.commands.compressor_flags import check_is_free, put_folder
    from tst_megatron.corpora.compression.byte_models import MODEL_FILE, as_file

    check_is_free(args.output)
    _check(args)
    console = Console()
    made = _counted(args, console) if args.size == _COUNTS else _trained(args, console)
    record = made.record
    put_folder(args.output, {MODEL_FILE: as_file(record.as_json()), **made.content})
    name = shlex.quote(str(args.output))
    for line in (
        f"{args.output}: {record.kind}, {record.context} bytes back, of {record.text_bytes:,} "
        f"bytes in {record.documents:,} documents{_held_out(record.bits_a_byte)}",
        f"To go on: tst-megatron compressor build {name} --output FOLDER",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _held_out(bits: float | None) -> str:
    return "" if bits is None else f"; {bits:.3f} bits a byte of held-out text"


def _check(args: argparse.Namespace) -> None:
    of_counts = {"--order": args.order, "--max-bytes": args.max_bytes}
    others = {"--steps": args.steps} if args.size == _COUNTS else of_counts
    for flag, value in others.items():
        if value is not None:
            raise UserError(f"{flag} {value} does not go with --size {args.size}: leave it out")
    for flag, value, least in (
        ("--order", args.order, 0),
        ("--max-bytes", args.max_bytes, 1),
        ("--steps", args.steps, 1),
    ):
        if value is not None and value < least:
            raise UserError(f"{flag} {value} is below {least}: leave it out")


def _counted(args: argparse.Namespace, console: "Console") -> "StoredByteModel":
    from tst_megatron.corpora.commands.compressor_flags import byte_documents
    from tst_megatron.corpora.compression.making import count_model, up_to

    order = _ORDER if args.order is None else args.order
    most = args.max_bytes or _MAX_BYTES
    with console.status("Counting"):
        return count_model(up_to(byte_documents(args, console), most), order)


def _trained(args: argparse.Namespace, console: "Console") -> "TrainedByteModel":
    from tst_megatron.corpora.indexing.plan import BuildSettings
    from tst_megatron.corpora.tokenizers.description import describe
    from tst_megatron.experiments.byte_model import train_byte_model
    from tst_megatron.experiments.launch import end_on_signals

    end_on_signals()
    text = BuildSettings(
        inputs=tuple(args.inputs),
        format=args.format,
        options=read_options(args, "text"),
        where=args.where,
        tokenizer=describe("bytes"),
        skips=args.on_error == "skip",
    )
    folder = args.output.with_name(f"{args.output.name}.training")
    made = train_byte_model(text, args.size, args.steps, folder, console)
    console.print(f"Its run is in {folder}, which nothing needs any more.", highlight=False)
    return made
