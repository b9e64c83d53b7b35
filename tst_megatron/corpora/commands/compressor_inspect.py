"""``tst-megatron compressor inspect``: what a compressor is, and the windows of a text."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tst_megatron.errors import UserError

if TYPE_CHECKING:
    from rich.text import Text

    from tst_megatron.corpora.compression.compressor import Compressor

EXAMPLES = """\
examples:
  tst-megatron compressor inspect ct16
  tst-megatron compressor inspect ct16 --text 'def f(x): return x'
  tst-megatron compressor inspect ct16 --file notes.md
"""
_SHOWN = 200
_COLOURS = ("cyan", "yellow")
_BETWEEN = "|"
_SAMPLES = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("compressor", type=Path, metavar="FOLDER", help="of compressor build")
    text = parser.add_mutually_exclusive_group()
    text.add_argument("--text", help="show its windows")
    text.add_argument("--file", type=Path, help="the same of a file, of whatever bytes")


def main(args: argparse.Namespace) -> None:
    """Print what is known of the compressor.

    Raises:
        UserError: it or the file cannot be read.
    """
    from rich.console import Console

    from tst_megatron.corpora.compression.compressor import read_compressor

    compressor = read_compressor(args.compressor)
    console = Console()
    lines: list[Text | str] = [*_facts(args.compressor, compressor)]
    if (content := _content(args)) is not None:
        lines += _windows(compressor, content)
    for line in lines:
        console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)


def _content(args: argparse.Namespace) -> bytes | None:
    if args.file is None:
        return None if args.text is None else str(args.text).encode(errors="surrogateescape")
    try:
        return bytes(args.file.read_bytes())
    except OSError as error:
        raise UserError(f"--file {args.file} cannot be read: {error.strerror}") from None


def _facts(folder: Path, compressor: "Compressor") -> Iterator[str]:
    settings, model = compressor.settings, compressor.model_record
    yield f"{folder}: {settings.in_words}"
    yield f"Ids: {compressor.vocab_size:,}, the last one ends a document"
    if compressor.windows is not None:
        lengths = compressor.windows.lengths
        yield (
            f"Windows: {len(lengths):,}, of up to {lengths.max()} bytes; SHA-256 of the table "
            f"{compressor.windows.sha256}"
        )
        shown = range(len(lengths) // (2 * _SAMPLES), len(lengths), len(lengths) // _SAMPLES)
        some = (repr(_text(compressor.windows.string(one))) for one in shown)
        yield f"Some of them: {' '.join(some)}"
    if model is not None:
        cost = f", {model['flops']:.3g} FLOPs" if model["flops"] else ""
        bits = model["bits_a_byte"]
        held_out = "" if bits is None else f"; {bits:.3f} bits a byte of held-out text"
        yield (
            f"Byte model: {model['kind']}, {model['context']} bytes back, of "
            f"{model['text_bytes']:,} bytes{held_out}{cost}"
        )
    yield (
        "Encodes alike on every machine: integers alone take part"
        if compressor.is_exact
        else "Encodes alike on the machine alone that a corpus is encoded on"
    )
    reads = "Hugging Face's libraries and Megatron" if compressor.is_a_string_an_id else "Megatron"
    yield f"Read by {reads}{'' if compressor.is_a_string_an_id else ', as ids alone'}"


def _windows(compressor: "Compressor", content: bytes) -> Iterator["Text | str"]:
    from rich.text import Text

    ids = compressor.code.encode([content]).ids
    if not len(ids):
        yield "The text is empty"
        return
    yield (
        f"The text: {len(content):,} bytes, {len(ids):,} ids, {len(content) / len(ids):.2f} bytes "
        "an id"
    )
    pieces = compressor.code.pieces(ids)
    shown = Text()
    for number, (_, piece) in enumerate(pieces[:_SHOWN]):
        shown.append(_BETWEEN if number else "", "dim")
        shown.append(_text(piece), _COLOURS[number % len(_COLOURS)])
    more = f" ... and {len(pieces) - _SHOWN:,} more" if len(pieces) > _SHOWN else ""
    yield shown.append(more)
    yield " ".join(map(str, ids[:_SHOWN].tolist())) + (" ..." if len(ids) > _SHOWN else "")
    if compressor.code.decode([ids])[0] != content:
        raise UserError("the ids do not become the text again: this is a fault of tst-megatron")


def _text(content: bytes) -> str:
    text = content.decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
