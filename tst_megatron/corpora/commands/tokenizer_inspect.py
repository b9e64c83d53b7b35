"""``tst-megatron tokenizer inspect``: what a tokenizer is, and what it makes of a text."""

import argparse
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from tst_megatron.corpora.commands.tokenizer_flags import (
    TOKENIZERS,
    add_gpt2_arguments,
    tokenizer_spec,
)
from tst_megatron.corpora.token_text import TokenText
from tst_megatron.corpora.tokenizers.description import TokenizerDescription, describe
from tst_megatron.corpora.tokenizers.encoders import Encoder
from tst_megatron.corpora.tokenizers.proof import Chosen, choose_encoder
from tst_megatron.errors import UserError

EXAMPLES = """\
examples:
  tst-megatron tokenizer inspect tokenizers/mine.model --text 'def f(x): return x'
  tst-megatron tokenizer inspect qwen3/ --file notes.md
  tst-megatron tokenizer inspect vocab.json?pattern=v2
"""
_PIECES_SHOWN = 200
_COLOURS = ("cyan", "yellow")
_BETWEEN = "|"  # So that a log shows what colours show in a terminal.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "tokenizer",
        nargs="?",
        metavar="MODEL_OR_JSON",
        help=TOKENIZERS,
    )
    add_gpt2_arguments(parser)
    parser.add_argument("--eod-token", metavar="TOKEN", help="the token that ends a document")
    text = parser.add_mutually_exclusive_group()
    text.add_argument("--text", help="show its pieces and how many bytes a token takes")
    text.add_argument("--file", type=Path, help="the same of a text file")


def main(args: argparse.Namespace) -> None:
    """Print what is known of the tokenizer.

    Raises:
        UserError: the tokenizer or the text cannot be read or encoded.
    """
    description = describe(tokenizer_spec(args, "MODEL_OR_JSON"), args.eod_token)
    text = _text(args)
    try:
        chosen = choose_encoder(description, [] if text is None else [text])
        lines: list[Text | str] = [*_facts(description), *_encoders(chosen)]
        if text is not None:
            lines += _pieces(description, chosen.encoder, text)
    except ValueError as error:
        raise UserError(f"the text cannot be encoded: {error}") from None
    console = Console()
    for line in lines:
        console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)


def _text(args: argparse.Namespace) -> str | None:
    if args.file is None:
        return None if args.text is None else str(args.text)
    try:
        return str(args.file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--file {args.file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"--file {args.file} is not UTF-8 text") from None


def _facts(description: TokenizerDescription) -> Iterator[str]:
    flags = shlex.join(flag.replace("{folder}", "FOLDER") for flag in description.megatron_flags)
    end = "none: a corpus needs --no-eod"
    if description.eod is not None:
        end = f"id {description.eod}"
        if description.library is not None:
            end += f", {_name(description, description.eod)}"
    yield f"{description.source}: {description.kind}, {description.vocab_size:,} ids"
    yield f"SHA-256: {description.sha256}"
    yield f"End of a document: {end}"
    if description.kind == "sentencepiece":
        yield from _sentencepiece_facts(description.library)
    if description.kind == "huggingface":
        yield from _huggingface_facts(description.library)
    if description.files:
        yield f"Files for training: {', '.join(sorted(description.files))}"
    yield f"Megatron's flags: {flags}"


def _name(description: TokenizerDescription, token: int) -> str:
    if description.kind == "sentencepiece":
        return str(description.library.id_to_piece(token))
    return TokenText(description).piece(token)


def _sentencepiece_facts(processor: Any) -> Iterator[str]:
    """What it does to text, found by giving it some: the library does not say."""
    has_bytes = any(processor.is_byte(i) for i in range(processor.vocab_size()))
    leads = processor.normalize("a") != "a"
    keeps = processor.normalize("a  b").endswith("▁▁b")
    same = processor.normalize("ﬁＡ").endswith("ﬁＡ")
    yield f"What it has no piece for: {'its bytes' if has_bytes else 'lost, as <unk>'}"
    yield (
        f"Text before it is encoded: {'a space before it' if leads else 'no space before it'}, "
        f"runs of spaces {'kept' if keeps else 'made one'}, "
        f"{'characters as they are' if same else 'compatible characters made one'}"
    )


def _huggingface_facts(tokenizer: Any) -> Iterator[str]:
    content = json.loads(tokenizer.to_str())
    has_bytes = content["model"].get("byte_fallback") or "ByteLevel" in json.dumps(
        content["pre_tokenizer"]
    )
    framed = tokenizer.encode("a")
    added = [
        token
        for token, is_special in zip(framed.tokens, framed.special_tokens_mask, strict=True)
        if is_special
    ]
    yield f"Model: {content['model']['type']}"
    yield f"What it has no piece for: {'its bytes' if has_bytes else 'lost, as its unknown token'}"
    yield f"Normaliser: {(content['normalizer'] or {'type': 'none'})['type']}"
    yield f"Special tokens around a document: {' '.join(added) or 'none'}"


def _encoders(chosen: Chosen) -> Iterator[str]:
    writes, defines = (f"{one.name} {one.version}" for one in (chosen.encoder, chosen.reference))
    if chosen.encoder is not chosen.reference:
        yield f"Writes the ids: {writes}, proven here to give those of {defines}"
    elif chosen.fell_back is not None:
        yield f"Writes the ids: {writes}, since {chosen.fell_back}"


def _pieces(description: TokenizerDescription, encoder: Encoder, text: str) -> Iterator[Text | str]:
    ids = encoder.encode([text]).ids
    if not len(ids):
        yield "The text has no tokens"
        return
    num_bytes = len(text.encode())
    yield (
        f"The text: {num_bytes:,} bytes, {len(ids):,} tokens, {num_bytes / len(ids):.2f} bytes a "
        "token"
    )
    shown = ids[:_PIECES_SHOWN].tolist()
    named, pieces = TokenText(description), Text()
    for number, one in enumerate(shown):
        pieces.append(_BETWEEN if number else "", "dim")
        pieces.append(named.piece(one), _COLOURS[number % len(_COLOURS)])
    more = "" if len(shown) == len(ids) else f" ... and {len(ids) - len(shown):,} more"
    yield pieces.append(more)
    yield " ".join(map(str, shown)) + more
