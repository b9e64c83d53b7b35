"""``tst-megatron compressor build``: a byte model to a code, which is a tokenizer."""

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from tst_megatron.errors import UserError

if TYPE_CHECKING:
    from tst_megatron.corpora.compression.compressor import Settings

EXAMPLES = """\
examples:
  tst-megatron compressor build m1 --output ct16
  tst-megatron compressor build m1 --window-bits 16 --token-bits 8 --output ct16-8
  tst-megatron compressor build m1 --window-bits 32 --rule cells --output ct32
  tst-megatron compressor build --method gzip --token-bits 16 --output gz
"""
_METHODS = ("equal-info", "ac", "static-ac", "gzip", "bytes")
_RULES = ("all", "fit", "delay", "cells")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "model", nargs="?", type=Path, metavar="M1", help="folder of compressor train"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="is made")
    parser.add_argument(
        "--method",
        choices=_METHODS,
        default="equal-info",
        help="windows of equal information (default); one arithmetic code a document by the model, "
        "or by single bytes' frequencies; zlib; the bytes themselves",
    )
    parser.add_argument(
        "--window-bits", type=int, metavar="W", help="of a window of equal-info; default 16"
    )
    parser.add_argument(
        "--token-bits",
        type=int,
        metavar="N",
        help="of an id: W by default (16 above 24), or 8, or 16",
    )
    parser.add_argument(
        "--rule",
        choices=_RULES,
        help="which strings are windows. Of a table: the likeliest, so that all ids are used "
        "(all, the default up to 24 bits); as long as W bits are enough (fit, the paper's); no "
        "byte that leaves the bits as they are (delay, its ablation). Without one, from 16 bits "
        "up: shares of 2^W cells, step by step (cells, the default above 24)",
    )
    parser.add_argument(
        "--reset-every",
        type=int,
        default=1,
        metavar="WINDOWS",
        help="the model begins anew after so many windows, 0 for never (default 1; others go by "
        "--rule cells)",
    )


def main(args: argparse.Namespace) -> None:
    """Build the compressor that the flags ask for.

    Raises:
        UserError: there is no such code, or it cannot be written.
    """
    from rich.console import Console

    from tst_megatron.corpora.commands.compressor_flags import check_is_free, put_folder
    from tst_megatron.corpora.compression import making
    from tst_megatron.corpora.compression.byte_models import read_byte_model

    check_is_free(args.output)
    settings = _settings(args)
    model = None if args.model is None else read_byte_model(args.model, on_gpu=True)
    making.check(settings, model)
    console = Console()
    with console.status("Finding windows") as status:
        made = making.compressor(
            settings, model, lambda number: status.update(f"Finding windows: {number:,}")
        )
        put_folder(args.output, made.files)
    size = f"{made.vocab_size:,} ids with the end of a document"
    lines = [f"{args.output}: {settings.in_words}; {size}"]
    if not made.is_exact:
        lines.append(
            "Its model's probabilities are floating-point numbers: text is encoded alike on this "
            "machine alone, so encode a corpus on one, and keep it"
        )
    name = shlex.quote(str(args.output))
    lines.append(f"To look at it: tst-megatron compressor inspect {name} --text 'some text'")
    lines.append(f"To use it: tst-megatron index build INPUT... --tokenizer {name} --output PREFIX")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _settings(args: argparse.Namespace) -> "Settings":
    from tst_megatron.corpora.compression.compressor import Settings
    from tst_megatron.corpora.compression.growing import MAX_WINDOW_BITS

    if args.reset_every < 0:
        raise UserError(f"--reset-every {args.reset_every} is below 0: give 0 for never")
    if args.method != "equal-info":
        for flag, value in (("--window-bits", args.window_bits), ("--rule", args.rule)):
            if value is not None:
                raise UserError(f"{flag} {value} is for --method equal-info: leave it out")
        if args.reset_every != 1:
            raise UserError("--reset-every is for --method equal-info: leave it out")
        return Settings(args.method, 8 if args.token_bits is None else args.token_bits)
    bits = 16 if args.window_bits is None else args.window_bits
    is_small = bits <= MAX_WINDOW_BITS and args.reset_every == 1
    rule = args.rule or ("all" if is_small else "cells")
    token_bits = args.token_bits
    if token_bits is None:
        token_bits = 16 if rule == "cells" else bits
    return Settings("equal-info", token_bits, bits, rule, args.reset_every)
