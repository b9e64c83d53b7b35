"""``tst-megatron index build``: from text files to Megatron's ``.bin`` and ``.idx``."""

import argparse
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tst_megatron.corpora.commands.input_flags import add_input_arguments, read_options
from tst_megatron.corpora.commands.tokenizer_flags import (
    TOKENIZERS,
    add_gpt2_arguments,
    tokenizer_spec,
)
from tst_megatron.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from tst_megatron.corpora.indexing.plan import BuildSettings
    from tst_megatron.corpora.tokenizers.description import TokenizerDescription

EXAMPLES = """\
examples:
  tst-megatron index build corpus/ --tokenizer tokenizer.model --output data/corpus
  tst-megatron index build 'fineweb/**/*.parquet' --tokenizer qwen3/ --output data/fineweb \\
      --where 'language_score>=0.9 and len(text)>200' --workers 64
  tst-megatron index build dolma/*.json.gz --tokenizer tokenizer.json --eod-token '<|endoftext|>' \\
      --output data/dolma --on-error skip
  tst-megatron index build reviews.csv --field review --where 'stars >= 3' --output data/reviews \\
      --vocab-file gpt2-vocab.json --merge-file gpt2-merges.txt
  tst-megatron index build ids.jsonl --tokenizer null:32000 --field input_ids --output data/ids

Stopped or killed at any moment, the same command goes on from what is done.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    add_input_arguments(parser)
    parser.add_argument(
        "--tokenizer",
        metavar="MODEL_OR_JSON",
        help=f"{TOKENIZERS} for ids that are already there",
    )
    add_gpt2_arguments(parser)
    parser.add_argument(
        "--encoder",
        choices=("fastest", "reference"),
        default="fastest",
        help="the fastest library that gives the reference's ids for this text, or the reference",
    )
    parser.add_argument("--eod-token", metavar="TOKEN", help="the token that ends a document")
    parser.add_argument("--no-eod", action="store_true", help="put nothing after a document")
    parser.add_argument(
        "--output", required=True, metavar="PREFIX", help="path of .bin, .idx and .manifest.json"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes; default one a core")
    parser.add_argument(
        "--chunk-bytes",
        type=int,
        metavar="N",
        help="of input that is done at once, and done again if it is killed in between; default a "
        "64th of the input, from 4 to 64 MiB",
    )


def main(args: argparse.Namespace) -> None:
    """Build the corpus that the flags ask for.

    Raises:
        UserError: a flag, an input or a record is wrong.
    """
    from rich.console import Console

    from tst_megatron.corpora.forms import compressed_prefix
    from tst_megatron.corpora.indexing.build import check_place
    from tst_megatron.corpora.indexing.output import named_prefix
    from tst_megatron.corpora.tokenizers.description import describe
    from tst_megatron.corpora.tokenizers.proxy_folder import compressed_form

    if args.workers is not None and args.workers < 1:
        raise UserError(f"--workers {args.workers} is below 1: leave it out for one a core")
    if args.chunk_bytes is not None and args.chunk_bytes < 1:
        raise UserError(f"--chunk-bytes {args.chunk_bytes} is below 1: leave it out")
    prefix = named_prefix(args.output)
    tokenizer = describe(tokenizer_spec(args, "--tokenizer"), args.eod_token)
    if tokenizer.eod is None and not args.no_eod:
        raise UserError(
            f"the tokenizer {tokenizer.source} has no end-of-document token: name one with "
            "--eod-token, or add --no-eod"
        )
    form = None if args.tokenizer is None else compressed_form(args.tokenizer)
    if form is not None and args.no_eod:
        raise UserError(
            f"--no-eod with the tokenizer {args.tokenizer}: a proxy's documents end with a token "
            "in either form, so leave it out"
        )
    builds = [(prefix, _settings(args, tokenizer))]
    if form is not None:
        builds.append((compressed_prefix(prefix), _settings(args, describe(form))))
        # Before hours of the first are spent.
        for place, settings in builds:
            check_place(settings, place)
    console = Console()
    for place, settings in builds:
        _build(settings, place, console)
    line = f"To train on it: --data-path {shlex.quote(str(prefix))}"
    console.print(line, highlight=False, soft_wrap=True, markup=False)


def _settings(args: argparse.Namespace, tokenizer: "TokenizerDescription") -> "BuildSettings":
    from tst_megatron.corpora.indexing.plan import BuildSettings

    return BuildSettings(
        inputs=tuple(args.inputs),
        format=args.format,
        options=read_options(args, tokenizer.reads),
        where=args.where,
        tokenizer=tokenizer,
        append_eod=not args.no_eod,
        skips=args.on_error == "skip",
        uses_reference=args.encoder == "reference",
        workers=args.workers,
        chunk_bytes=args.chunk_bytes,
    )


def _build(settings: "BuildSettings", prefix: Path, console: "Console") -> None:
    """Build a corpus, and say what it is."""
    from tst_megatron.corpora.indexing.build import build

    began = time.monotonic()
    try:
        manifest = build(settings, prefix, console)
    except KeyboardInterrupt:
        console.print("Stopping: the same command goes on from what is done.", soft_wrap=True)
        raise
    seconds = time.monotonic() - began
    read = sum(one.size for one in manifest.inputs)
    lines = [
        f"{prefix}: {manifest.documents:,} documents, {manifest.tokens:,} tokens"
        + (f", {manifest.bytes_per_token:.2f} bytes a token" if manifest.text_bytes else ""),
        f"{read / 1e6:,.1f} MB read in {seconds:.1f} s, ids by {manifest.tokenizer.encoder}",
    ]
    lines += [f"{count:,} records left out: {why}" for why, count in manifest.skipped.items()]
    if manifest.filtered:
        lines.append(f"{manifest.filtered:,} records left out by --where")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
