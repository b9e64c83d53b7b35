"""tiktoken vocabularies as Megatron's ``TikTokenizer`` reads them.

The ids are special tokens first and ranks after them, and the text is split by one of two patterns
(megatron/core/tokenizers/text/libraries/tiktoken_tokenizer.py); all of it is repeated here, since
that module takes seconds to import, and tests compare the two.
"""

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Any

import tiktoken

from tst_megatron.errors import UserError

VOCABULARY_FILE = "vocab.json"
EOD_TOKEN = "</s>"

PATTERNS = {
    "v1": r"[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    "v2": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
_NAMED_SPECIAL_TOKENS = ("<unk>", "<s>", EOD_TOKEN, "<mask>", "<pad>", "<cls>", "<sep>")
_NUM_SPECIAL_TOKENS = 1000  # Megatron's default.
_NUM_BYTES = 256
_KEYS = {"rank", "token_bytes", "token_str"}
_RANKS = re.compile(rb"[A-Za-z0-9+/]+={0,2} 0\r?\n")


@dataclass(frozen=True)
class Vocabulary:
    """A vocabulary with its options.

    Attributes:
        content: the JSON that Megatron reads.
        pattern: ``v1`` or ``v2``.
        vocab_size: special tokens and ranks in all.
        special_tokens: theirs are the first ids.
        encoding: tiktoken's object.
    """

    content: bytes
    pattern: str
    vocab_size: int
    special_tokens: tuple[str, ...]
    encoding: tiktoken.Encoding


def looks_like_ranks(content: bytes) -> bool:
    """Whether a file is tiktoken's own: a token in base 64 and its rank on every line."""
    return _RANKS.match(content) is not None


def read(spec: str, content: bytes, options: dict[str, str]) -> Vocabulary:
    """Read a vocabulary in Megatron's JSON, or tiktoken's ranks.

    Args:
        spec: names it in errors.
        content: of the file.
        options: ``pattern`` (v2), ``num_special_tokens`` (1000) and ``vocab_size`` (all of them),
            as Megatron's ``--tiktoken-pattern``, ``--tiktoken-num-special-tokens`` and
            ``--vocab-size``.

    Raises:
        UserError: Megatron could not read it, or would give other ids.
    """
    if unknown := options.keys() - {"pattern", "num_special_tokens", "vocab_size"}:
        raise UserError(
            f"the tokenizer {spec} has an option {min(unknown)}, and the options are pattern, "
            "num_special_tokens and vocab_size"
        )
    pattern = options.get("pattern", "v2")
    if pattern not in PATTERNS:
        raise UserError(f"the tokenizer {spec} has pattern {pattern}: use v1 or v2")
    num_special = _number(spec, options, "num_special_tokens", _NUM_SPECIAL_TOKENS)
    if num_special < len(_NAMED_SPECIAL_TOKENS):
        raise UserError(
            f"the tokenizer {spec} has {num_special} special tokens, and Megatron's first "
            f"{len(_NAMED_SPECIAL_TOKENS)} are fixed: use as many or more"
        )
    if looks_like_ranks(content):
        content = _from_ranks(spec, content)
    ranks = _ranks(spec, content)
    vocab_size = _number(spec, options, "vocab_size", num_special + len(ranks))
    if not num_special < vocab_size <= num_special + len(ranks):
        raise UserError(
            f"the tokenizer {spec} has vocab_size {vocab_size}, which must lie above its "
            f"{num_special} special tokens and within {num_special + len(ranks)}, all it has"
        )
    del ranks[vocab_size - num_special :]
    special_tokens = (
        *_NAMED_SPECIAL_TOKENS,
        *(f"<SPECIAL_{i}>" for i in range(len(_NAMED_SPECIAL_TOKENS), num_special)),
    )
    encoding = tiktoken.Encoding(
        name=spec,
        pat_str=PATTERNS[pattern],
        mergeable_ranks={token: rank + num_special for rank, token in enumerate(ranks)},
        special_tokens={token: i for i, token in enumerate(special_tokens)},
    )
    return Vocabulary(content, pattern, vocab_size, special_tokens, encoding)


def _number(spec: str, options: dict[str, str], name: str, default: int) -> int:
    value = options.get(name, str(default))
    if not value.isdecimal():
        raise UserError(f"the tokenizer {spec} has {name}={value}, which is not a number")
    return int(value)


def _from_ranks(spec: str, content: bytes) -> bytes:
    """tiktoken's ranks as Megatron's JSON."""
    entries: list[dict[str, Any]] = []
    for line in content.splitlines():
        token, _, rank = line.partition(b" ")
        if not rank.isdigit() or int(rank) != len(entries):
            raise UserError(
                f"the tokenizer {spec} has no rank {len(entries)} on its line {len(entries) + 1}: "
                "Megatron needs all ranks, in order"
            )
        text = base64.b64decode(token).decode(errors="replace")
        entries.append({"rank": int(rank), "token_bytes": token.decode(), "token_str": text})
    return (json.dumps(entries, ensure_ascii=False) + "\n").encode()


def _ranks(spec: str, content: bytes) -> list[bytes]:
    """The tokens' bytes in the order of their ranks, held to what Megatron asserts of them."""
    try:
        entries = json.loads(content)
        ranks = [base64.b64decode(entry["token_bytes"], validate=True) for entry in entries]
        is_megatrons = all(entry.keys() == _KEYS for entry in entries) and [
            entry["rank"] for entry in entries
        ] == list(range(len(entries)))
    except (ValueError, TypeError, KeyError, AttributeError, binascii.Error):
        is_megatrons = False
    if not is_megatrons:
        raise UserError(
            f"the tokenizer {spec} is not a tiktoken vocabulary of Megatron's: a JSON list of "
            "objects with rank, token_bytes and token_str, in the order of the ranks"
        )
    if ranks[:_NUM_BYTES] != [bytes([byte]) for byte in range(_NUM_BYTES)]:
        raise UserError(
            f"the tokenizer {spec} does not begin with the {_NUM_BYTES} bytes in order, as "
            "Megatron's TikTokenizer has it: use the Hugging Face tokenizer.json of the same model"
        )
    if len(set(ranks)) < len(ranks):
        raise UserError(f"the tokenizer {spec} has a token twice, which Megatron refuses")
    return ranks
