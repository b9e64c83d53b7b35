"""Whether a run has the tokenizer of the run that it goes on from, as far as that can be told.

The one idea: a padded vocabulary says nothing of the ids in it, so a checkpoint remembers what its
tokenizer holds. It is another one only where that is certain: what a file is called and where it
lies decides nothing, nor does what one side does not know.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tst_megatron.errors import UserError
from tst_megatron.runs.flag_roles import Role
from tst_megatron.trainer.corpus_tokenizer import corpus_tokenizer_flags, tokenizer_sha256

_SENTENCEPIECE, _HUGGING_FACE, _TIKTOKEN = "SentencePiece", "Hugging Face", "tiktoken"
_READS_IDS = "null"
"""Its ids are there already, and may be any tokenizer's."""
# Several of Megatron's types read the same file to the same ids (build_tokenizer.py of its core).
_LIBRARIES = {
    "SentencePieceTokenizer": _SENTENCEPIECE,
    "GPTSentencePieceTokenizer": _SENTENCEPIECE,
    "Llama2Tokenizer": _SENTENCEPIECE,
    "HuggingFaceTokenizer": _HUGGING_FACE,
    "SFTTokenizer": _HUGGING_FACE,
    "GPT2BPETokenizer": _HUGGING_FACE,
    "TikTokenizer": _TIKTOKEN,
    "NullTokenizer": _READS_IDS,
}
_DIGITS_SHOWN = 12
_OF_FLAGS = (*Role.DATA.value, *Role.TOKENIZER.value, "tokenizer_type", "vocab_size")


@dataclass(frozen=True)
class Tokenizer:
    """What is told of one.

    Attributes:
        type: Megatron's ``--tokenizer-type``; None where not known, as are the others.
        name: of its file or folder, to be told apart by a reader.
        sha256: of what it holds (`tokenizer_sha256`).
        tokens: that it has, before any padding.
    """

    type: str | None
    name: str | None = None
    sha256: str | None = None
    tokens: int | None = None


def remember_tokenizer(args: argparse.Namespace, tokens: int, end: int | None) -> None:
    """Let every later checkpoint carry what the tokenizer is.

    Args:
        args: Megatron's validated arguments.
        tokens: of the tokenizer.
        end: the id that ends a document, if there is one.
    """
    args.tokenizer_sha256 = tokenizer_sha256(args)
    args.tokenizer_tokens = tokens
    args.tokenizer_end = end


def end_of_documents(tokenizer: Any) -> int | None:
    """The id by which a tokenizer of Megatron's ends a document; not every one has such."""
    try:
        end = tokenizer.eod
    except (AttributeError, NotImplementedError):
        return None
    return None if end is None else int(end)


def remembered_tokenizer(args: Any) -> Tokenizer:
    """What a run's arguments, or a checkpoint's, say after `remember_tokenizer`, or without it."""
    return Tokenizer(
        getattr(args, "tokenizer_type", None),
        _name(vars(args)),
        getattr(args, "tokenizer_sha256", None),
        getattr(args, "tokenizer_tokens", None),
    )


def check_flags_tokenizer(before: argparse.Namespace, now: argparse.Namespace, where: str) -> None:
    """Check by flags alone that a run can go on from another; no corpus has to be there.

    Args:
        before: Megatron's flags and ours of the run before, not validated.
        now: likewise of the one that goes on from it.
        where: as of `check_same_tokenizer`.

    Raises:
        UserError: it has another tokenizer.
    """
    if all(getattr(before, name, None) == getattr(now, name, None) for name in _OF_FLAGS):
        return
    try:
        one, other = _of_flags(before), _of_flags(now)
    except UserError:
        # What is wrong with either's corpora is said of that run, where it starts.
        return
    check_same_tokenizer(one, other, where)


def check_same_tokenizer(before: Tokenizer, now: Tokenizer, where: str) -> None:
    """Check that a run does not go on in ids of another tokenizer.

    Args:
        before: what the model was trained with.
        now: what the run has.
        where: the beginning of a sentence, up to what the model before was trained with.

    Raises:
        UserError: it is certainly another one.
    """
    told = _difference(before, now)
    if told is not None:
        raise UserError(
            f"{where} with another tokenizer ({told}), whose ids stand for other text: use that one"
        )


def _difference(before: Tokenizer, now: Tokenizer) -> str | None:
    """What makes two tokenizers certainly different; None where nothing does."""
    if None not in (before.sha256, now.sha256) and before.sha256 == now.sha256:
        return None
    libraries = {_LIBRARIES.get(one.type or "") for one in (before, now)}
    if None in libraries or (len(libraries) > 1 and _READS_IDS in libraries):
        return None
    if len(libraries) > 1:
        return f"of the type {before.type}, and this run's is of {now.type}"
    if before.sha256 is not None and now.sha256 is not None:
        shown = before.sha256[:_DIGITS_SHOWN], now.sha256[:_DIGITS_SHOWN]
        return (
            f"{before.name or before.type} with SHA-256 {shown[0]}..., and this run's, "
            f"{now.name or now.type}, has {shown[1]}..."
        )
    if None not in (before.tokens, now.tokens) and before.tokens != now.tokens:
        return f"of {before.tokens} tokens, and this run's has {now.tokens}"
    return None


def _of_flags(args: argparse.Namespace) -> Tokenizer:
    """As flags and manifests have it, where a manifest's flags are in place of a type alone."""
    parser = argparse.ArgumentParser(allow_abbrev=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("--tokenizer-type")
    parser.add_argument("--vocab-size", type=int)
    own, _ = parser.parse_known_args(corpus_tokenizer_flags(args))
    flags = vars(args) | vars(own)
    kind = flags["tokenizer_type"]
    name = None if vars(own) else _name(vars(args))
    if name is None and not vars(own) and _LIBRARIES.get(kind or "") != _READS_IDS:
        # A type by itself, as a recipe has it, waits for a corpus that knows its tokenizer.
        kind = None
    has_size = _LIBRARIES.get(kind or "") in (_READS_IDS, _TIKTOKEN)
    size = flags["vocab_size"] if has_size else None
    return Tokenizer(kind, name, tokenizer_sha256(args), size)


def _name(args: Mapping[str, Any]) -> str | None:
    named = next((args[name] for name in Role.TOKENIZER.value if args.get(name)), None)
    return None if named is None else Path(str(named)).name
