"""``tst-megatron compressor proxy``: bytes and another tokenizer's ids in one vocabulary."""

import argparse
import shlex
from pathlib import Path

EXAMPLES = """\
examples:
  tst-megatron compressor proxy ct16 --output proxy16
  tst-megatron compressor proxy tokenizer.model --output proxy32k
  tst-megatron index build corpus/ --tokenizer proxy32k --output data/corpus
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "tokenizer",
        metavar="TOKENIZER",
        help="what compresses text: a folder of compressor build, or any tokenizer of text that "
        "index build takes",
    )
    parser.add_argument("--eod-token", metavar="TOKEN", help="the token that ends a document in it")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="is made")


def main(args: argparse.Namespace) -> None:
    """Make the folder.

    Raises:
        UserError: the tokenizer cannot compress text, or the folder cannot be written.
    """
    from rich.console import Console

    from tst_megatron.corpora.commands.compressor_flags import check_is_free, put_folder
    from tst_megatron.corpora.tokenizers.description import describe
    from tst_megatron.corpora.tokenizers.proxy import ProxyIds, proxy_files

    check_is_free(args.output)
    inner = describe(args.tokenizer, args.eod_token)
    put_folder(args.output, proxy_files(inner))
    ids, name = ProxyIds(inner.vocab_size), shlex.quote(str(args.output))
    lines = [
        f"{args.output}: {ids.vocab_size:,} ids: 256 bytes, the {inner.vocab_size:,} of "
        f"{inner.source}, and three marks",
        f"To use it: tst-megatron index build INPUT... --tokenizer {name} --output PREFIX",
    ]
    for line in lines:
        Console().print(line, highlight=False, markup=False, soft_wrap=True)
