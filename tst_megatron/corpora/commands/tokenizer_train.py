"""``tst-megatron tokenizer train``: a SentencePiece tokenizer from text files."""

import argparse
import shlex
from collections.abc import Iterator
from itertools import batched
from pathlib import Path

from tst_megatron.corpora.commands.input_flags import add_input_arguments, read_options
from tst_megatron.errors import UserError

EXAMPLES = """\
examples:
  tst-megatron tokenizer train corpus/ --output tokenizers/mine --vocab-size 32000
  tst-megatron tokenizer train 'fineweb/**/*.parquet' --output tokenizers/web --vocab-size 65536 \\
      --max-lines 4000000 --symbol '<|im_start|>' --symbol '<|im_end|>'
  tst-megatron tokenizer train books/*.txt.zst --text-documents blank-line --model unigram \\
      --normalization nmt_nfkc --output tokenizers/books --vocab-size 16000
"""
_MODELS = ("bpe", "unigram")
_NORMALIZATIONS = ("identity", "nmt_nfkc")
_SEED = 1234  # Megatron's default.
_DOCUMENTS_A_LOOK = 1_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    from tst_megatron.corpora.tokenizers.training import MAX_LINES

    add_input_arguments(parser)
    parser.add_argument(
        "--output", required=True, metavar="PREFIX", help="path of the .model without the ending"
    )
    parser.add_argument(
        "--vocab-size",
        type=int,
        required=True,
        metavar="N",
        help="pieces, bytes and special tokens in all",
    )
    parser.add_argument("--model", choices=_MODELS, default="bpe", help="default bpe")
    parser.add_argument(
        "--symbol",
        action="append",
        default=[],
        metavar="TEXT",
        help="always one piece, as the end of a line and the tab are; may be repeated",
    )
    parser.add_argument(
        "--normalization",
        choices=_NORMALIZATIONS,
        default="identity",
        help="identity leaves text as it is (default); nmt_nfkc, SentencePiece's own, makes one of "
        "characters that Unicode calls compatible",
    )
    parser.add_argument(
        "--max-lines",
        type=int,
        default=MAX_LINES,
        metavar="N",
        help=f"lines, drawn from all of the text, that are held and trained on ({MAX_LINES:,})",
    )
    parser.add_argument("--seed", type=int, default=_SEED, help=f"draws the lines ({_SEED})")


def main(args: argparse.Namespace) -> None:
    """Train the tokenizer that the flags ask for.

    Raises:
        UserError: a flag, an input or a record is wrong, or no such tokenizer can be trained.
    """
    from rich.console import Console

    from tst_megatron.corpora.reading.chunks import read_documents
    from tst_megatron.corpora.reading.inputs import find_inputs
    from tst_megatron.corpora.tokenizers.training import train_tokenizer

    if args.max_lines < 1:
        raise UserError(f"--max-lines {args.max_lines} is below 1: leave it out")
    model_file = Path(f"{args.output}.model")
    console = Console()
    num_documents = 0

    def counted(documents: Iterator[str]) -> Iterator[str]:
        nonlocal num_documents
        for some in batched(documents, _DOCUMENTS_A_LOOK):
            yield from some
            num_documents += len(some)
            status.update(f"Reading: {num_documents:,} documents")
        status.update("Training the tokenizer")

    inputs = find_inputs(args.inputs, args.format)
    for left_out in inputs.left_out:
        console.print(left_out.in_words, highlight=False, markup=False, soft_wrap=True)
    options = read_options(args, "text")
    documents = read_documents(inputs.files, options, skips=args.on_error == "skip")
    try:
        model_file.parent.mkdir(parents=True, exist_ok=True)
        with console.status("Reading") as status:
            train_tokenizer(
                counted(documents),
                model_file,
                args.vocab_size,
                args.model,
                args.symbol,
                args.normalization,
                args.max_lines,
                args.seed,
            )
    except OSError as error:
        raise UserError(f"--output {args.output} cannot be written: {error.strerror}") from None
    for line in (
        f"{model_file}: {args.vocab_size:,} pieces from {num_documents:,} documents",
        f"To look at it: tst-megatron tokenizer inspect {shlex.quote(str(model_file))}",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
