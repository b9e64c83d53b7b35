"""gigatoken: encoding many times faster than the libraries that define the ids.

The one idea: where its own reading of a tokenizer is known to differ from the library's, it gets
text or a tokenizer on which the two agree; and `proof` finds out whether that was enough.
"""

import base64
import json
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from tst_megatron.corpora.tokenizers.byte_encoder import byte_encoder
from tst_megatron.corpora.tokenizers.description import TokenizerDescription
from tst_megatron.corpora.tokenizers.encoders import (
    Encoded,
    Encoder,
    check_text,
    explained,
    reference_encoder,
)

# gigatoken remembers every word it has seen, without end (its issue 36).
_CACHE_BYTES = 256 << 20
_SPACE = " "
# Documents of a batch, of about a megabyte, that are quick to encode one by one.
_FEW = 1_000


class UnsuitedError(Exception):
    """gigatoken does not take this tokenizer; the message says why, in a few words."""


def fast_encoder(description: TokenizerDescription) -> Encoder:
    """The fast encoder of a tokenizer, not yet proven.

    Raises:
        UnsuitedError: there is none.
    """
    make = {
        "sentencepiece": _sentencepiece,
        "huggingface": _huggingface,
        "tiktoken": _tiktoken,
    }[description.kind]
    try:
        return make(description)
    except UnsuitedError:
        raise
    except Exception as error:  # The library raises no narrower one.
        raise UnsuitedError(f"gigatoken does not load it: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else repr(error)


def _as_they_are(documents: Sequence[str]) -> list[str]:
    return list(documents)


class GigatokenEncoder:
    """gigatoken's ``encode_batch`` on the calling thread.

    Args:
        load: makes the ``gigatoken.Tokenizer``.
        prepare: text to what gigatoken is given.
        finish: its ids to the tokenizer's; None where they are.
    """

    name = "gigatoken"

    def __init__(
        self,
        load: Callable[[], Any],
        prepare: Callable[[Sequence[str]], list[str]] = _as_they_are,
        finish: Callable[[Encoded], Encoded] | None = None,
    ) -> None:
        self.version = version(self.name)
        self._load = load
        self._prepare = prepare
        self._finish = finish
        self._tokenizer = load()
        self._least_memory: int | None = None

    def encode(self, documents: Sequence[Any]) -> Encoded:
        """See `tst_megatron.corpora.tokenizers.encoders.Encoder`."""
        if not documents:
            return Encoded(np.empty(0, np.uint32), np.empty(0, np.int64))
        with explained(documents):
            encoded = self._encoded(self._prepare(documents))
        self._forget_in_time()
        return encoded if self._finish is None else self._finish(encoded)

    def _encoded(self, texts: list[str]) -> Encoded:
        if len(texts) <= _FEW:
            # As quick as all at once, and needs no awkward, whose import takes most of a second.
            rows = [self._tokenizer.encode(text) for text in texts]
            lengths = np.fromiter(map(len, rows), np.int64, len(rows))
            return Encoded(np.concatenate(rows), lengths)
        # The library does so by itself, and takes a Ctrl-C in the middle for a missing package.
        import awkward  # noqa: F401

        # Its thread pool does not survive a fork.
        layout = self._tokenizer.encode_batch(texts, parallel=False).layout
        return Encoded(np.asarray(layout.content.data), np.diff(np.asarray(layout.offsets.data)))

    def _forget_in_time(self) -> None:
        """Begin with an empty cache when this process has grown by more than a cache may take."""
        memory = psutil.Process().memory_info().rss
        if self._least_memory is None or memory < self._least_memory:
            self._least_memory = memory
        elif memory - self._least_memory > _CACHE_BYTES:
            # The old one goes first: both at once would be the peak.
            self._tokenizer = self._least_memory = None
            self._tokenizer = self._load()


def _sentencepiece(description: TokenizerDescription) -> Encoder:
    """gigatoken reads a model through a ``tokenizer.json``, which is put right here.

    Three differences: a control piece as text is text to SentencePiece; a leading space goes before
    the document, and not before each stretch between the user's own symbols as well; and gigatoken
    normalises by graphemes where SentencePiece takes the longest match, so that SentencePiece does
    it, unless there is nothing to do but that leading space.
    """
    import gigatoken
    from gigatoken._load.sentencepiece import sentencepiece_to_tokenizer_json

    (model,) = description.files.values()
    content = json.loads(sentencepiece_to_tokenizer_json(model))
    content["added_tokens"] = [t for t in content["added_tokens"] if not t["special"]]
    steps = [step["type"] for step in content["normalizer"]["normalizers"]]
    prepare: Callable[[Sequence[str]], list[str]]
    if steps == ["Replace"]:
        prepare = _as_they_are
    elif steps == ["Prepend", "Replace"]:
        prepare = _after_a_space
        del content["normalizer"]["normalizers"][0]
    else:
        prepare = _Normalised(description.library)
        content["normalizer"] = None
    tokenizer_json = json.dumps(content)
    return GigatokenEncoder(lambda: gigatoken.Tokenizer.from_json(tokenizer_json), prepare)


def _after_a_space(documents: Sequence[str]) -> list[str]:
    return [text and _SPACE + text for text in documents]


class _Normalised:
    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __call__(self, documents: Sequence[str]) -> list[str]:
        texts: list[str] = self._processor.normalize(list(documents))
        return texts


def _huggingface(description: TokenizerDescription) -> Encoder:
    """What a post-processor puts around text is put around ids, and NFC is left to the library.

    The two libraries have Unicode's tables of different years. Bytes are looked up by us.
    """
    import gigatoken

    content = json.loads(description.library.to_str())
    if (of_bytes := byte_encoder(content, description.library)) is not None:
        return of_bytes
    is_normalised = content["normalizer"] in (
        {"type": "NFC"},
        {"type": "Sequence", "normalizers": [{"type": "NFC"}]},
    )
    if is_normalised:
        content["normalizer"] = None
    tokenizer_json = json.dumps(content)
    framed = description.library.encode("a")
    marks = framed.special_tokens_mask
    begin, end = marks.index(0), len(marks) - marks[::-1].index(0)
    finish = _Frame(framed.ids[:begin], framed.ids[end:]) if 1 in marks else None
    encoder = GigatokenEncoder(lambda: gigatoken.Tokenizer.from_json(tokenizer_json), finish=finish)
    return _SomeByReference(encoder, description, _NFC(description) if is_normalised else None)


class _Frame:
    """Every document between a prefix and a suffix."""

    def __init__(self, prefix: Sequence[int], suffix: Sequence[int]) -> None:
        self._prefix = prefix
        self._suffix = suffix

    def __call__(self, encoded: Encoded) -> Encoded:
        lengths = encoded.lengths + (len(self._prefix) + len(self._suffix))
        ends = np.cumsum(lengths)
        ids: npt.NDArray[Any] = np.empty(int(ends[-1]), encoded.ids.dtype)
        is_text = np.ones(len(ids), dtype=bool)
        places = [(ends - lengths + i, token) for i, token in enumerate(self._prefix)]
        places += [(ends - len(self._suffix) + i, token) for i, token in enumerate(self._suffix)]
        for place, token in places:
            ids[place], is_text[place] = token, False
        ids[is_text] = encoded.ids
        return Encoded(ids, lengths)


class _SomeByReference:
    """Most documents go to gigatoken, prepared for it; those it may take otherwise do not.

    Args:
        encoder: gigatoken's.
        description: the tokenizer.
        prepare: text to what gigatoken is given; None for what the reference is to encode.
    """

    def __init__(
        self,
        encoder: GigatokenEncoder,
        description: TokenizerDescription,
        prepare: Callable[[str], str | None] | None = None,
    ) -> None:
        self.name = encoder.name
        self.version = encoder.version
        self._encoder = encoder
        self._reference = reference_encoder(description)
        self._prepare = prepare

    def encode(self, documents: Sequence[Any]) -> Encoded:
        """See `tst_megatron.corpora.tokenizers.encoders.Encoder`."""
        is_other = holding_new_characters(documents)
        texts = documents
        if self._prepare is not None:
            with explained(documents):
                prepared = [self._prepare(text) for text in documents]
            is_other |= np.array([text is None for text in prepared], dtype=bool)
            texts = [text or "" for text in prepared]
        if not is_other.any():
            return self._encoder.encode(texts)
        others = np.flatnonzero(is_other).tolist()
        theirs = self._reference.encode([documents[i] for i in others])
        ours = self._encoder.encode([texts[i] for i in np.flatnonzero(~is_other).tolist()])
        lengths = np.empty(len(documents), np.int64)
        lengths[~is_other], lengths[is_other] = ours.lengths, theirs.lengths
        is_theirs = np.repeat(is_other, lengths)
        ids: npt.NDArray[Any] = np.empty(len(is_theirs), np.uint32)
        ids[~is_theirs], ids[is_theirs] = ours.ids, theirs.ids
        return Encoded(ids, lengths)


def holding_new_characters(documents: Sequence[Any]) -> npt.NDArray[np.bool_]:
    """``[documents]``, which of them have a character that Unicode 15 has not.

    Libraries have its tables of different years, and so differ on whether such a character is a
    letter. (Python 3.12 has those of version 15; a later Python lets newer characters pass, and
    the awkward strings then find the difference.)

    Raises:
        ValueError: a document is not text that UTF-8 can hold.
    """
    found = np.zeros(len(documents), dtype=bool)
    check_text([document for document in documents if not isinstance(document, str)])
    others = [i for i, document in enumerate(documents) if not document.isascii()]
    if not others or not _has_new_characters("".join([documents[i] for i in others]), documents):
        return found
    for i in others:
        found[i] = _has_new_characters(documents[i], documents)
    return found


def _has_new_characters(text: str, documents: Sequence[Any]) -> bool:
    try:
        codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    except UnicodeEncodeError:
        check_text(documents)
        raise
    return bool(_new_characters()[codes].any())


@cache
def _new_characters() -> npt.NDArray[np.bool_]:
    """``[code points]``, which of them are no character in Python's tables."""
    codes = range(sys.maxunicode + 1)
    return np.fromiter((unicodedata.category(chr(code)) == "Cn" for code in codes), bool)


class _NFC:
    """Text in NFC by the library's own tables; None where that may hide an added token."""

    def __init__(self, description: TokenizerDescription) -> None:
        self._normalizer = description.library.normalizer
        self._added_tokens = description.special_tokens

    def __call__(self, text: str) -> str | None:
        # Python's tables are the later ones: what they find normal, the library's do as well.
        if unicodedata.is_normalized("NFC", text):
            return text
        normalised: str = self._normalizer.normalize_str(text)
        if any(token in text or token in normalised for token in self._added_tokens):
            # Such tokens are taken out of text before it is normalised, or after.
            return None
        return normalised


def _tiktoken(description: TokenizerDescription) -> Encoder:
    """gigatoken knows Megatron's second pattern, by the name of a model that has it.

    It counts special tokens after the ranks, where Megatron has them first.
    """
    import gigatoken

    if "v2" not in description.megatron_flags:
        raise UnsuitedError("gigatoken does not split text by Megatron's pattern v1")
    encoding, num_special = description.library, len(description.special_tokens)
    num_ranks = description.vocab_size - num_special
    special = {token: num_ranks + i for i, token in enumerate(description.special_tokens)}
    ranks = (encoding.decode_single_token_bytes(num_special + rank) for rank in range(num_ranks))
    lines = [base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(ranks)]

    def load() -> Any:
        with tempfile.NamedTemporaryFile(suffix=".tiktoken") as file:
            Path(file.name).write_bytes(b"".join(lines))
            return gigatoken.Tokenizer.from_tiktoken(file.name, "nemotron", special)

    def finish(encoded: Encoded) -> Encoded:
        ids = (encoded.ids + num_special) % (num_ranks + num_special)
        return Encoded(ids, encoded.lengths)

    return _SomeByReference(GigatokenEncoder(load, finish=finish), description)
