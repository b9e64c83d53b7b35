"""gigatoken: encoding many times faster than the libraries that define the ids.

The one idea: it is made to give the reference's ids wherever its own reading of a tokenizer differs
from the reference's in a way that is known, and `proof` finds out whether that was enough.
"""

import json
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from tst_megatron.data.encoding import Encoded
from tst_megatron.data.tokenizers.description import TokenizerDescription
from tst_megatron.data.tokenizers.reference import explained

# gigatoken remembers every word it has seen, without end (its issue 36).
_CACHE_BYTES = 512 << 20
_SPACE = " "


class UnsuitedError(Exception):
    """gigatoken does not take this tokenizer; the message says why, in a few words."""


def fast_encoder(description: TokenizerDescription) -> "GigatokenEncoder":
    """The fast encoder of a tokenizer, not yet proven.

    Raises:
        UnsuitedError: there is none.
    """
    try:
        if description.kind == "sentencepiece":
            return _from_sentencepiece(description)
        if description.kind == "huggingface":
            return _from_huggingface(description)
    except UnsuitedError:
        raise
    except Exception as error:  # The library raises no narrower one.
        raise UnsuitedError(f"gigatoken does not load it: {_first_line(error)}") from None
    raise UnsuitedError("gigatoken does not read Megatron's tiktoken vocabularies")


class GigatokenEncoder:
    """gigatoken's ``encode_batch`` on the calling thread, and what a post-processor adds to it.

    Args:
        tokenizer_json: a Hugging Face ``tokenizer.json``.
        prefix: ids before those of every document.
        suffix: ids after them.
        leads_with_space: whether a document that is not empty is encoded with a space before it.
    """

    name = "gigatoken"

    def __init__(
        self,
        tokenizer_json: str,
        prefix: Sequence[int] = (),
        suffix: Sequence[int] = (),
        leads_with_space: bool = False,
    ) -> None:
        self.version = version(self.name)
        self._json = tokenizer_json
        self._prefix = prefix
        self._suffix = suffix
        self._leads_with_space = leads_with_space
        self._backend = self._load()
        self._least_memory: int | None = None

    def encode(self, documents: Sequence[Any]) -> Encoded:
        """See `tst_megatron.data.encoding.Encoder`."""
        if not documents:
            return Encoded(np.empty(0, np.uint32), np.empty(0, np.int64))
        if self._leads_with_space:
            documents = [text and _SPACE + text for text in documents]
        with explained(documents):
            # Its thread pool does not survive a fork.
            rows = self._backend.encode_batch(list(documents), parallel=False).layout
        ids, ends = np.asarray(rows.content.data), np.asarray(rows.offsets.data)
        self._forget_in_time()
        encoded = Encoded(ids, np.diff(ends))
        if self._prefix or self._suffix:
            return _framed(encoded, self._prefix, self._suffix)
        return encoded

    def _load(self) -> Any:
        import gigatoken

        return gigatoken.Tokenizer.from_json(self._json)

    def _forget_in_time(self) -> None:
        """Begin with an empty cache when this process has grown by more than a cache may take."""
        memory = psutil.Process().memory_info().rss
        if self._least_memory is None or memory < self._least_memory:
            self._least_memory = memory
        elif memory - self._least_memory > _CACHE_BYTES:
            self._backend = self._least_memory = None
            self._backend = self._load()


def _framed(encoded: Encoded, prefix: Sequence[int], suffix: Sequence[int]) -> Encoded:
    """Every document between a prefix and a suffix."""
    lengths = encoded.lengths + (len(prefix) + len(suffix))
    ends = np.cumsum(lengths)
    ids: npt.NDArray[Any] = np.empty(int(lengths.sum()), encoded.ids.dtype)
    is_text = np.ones(len(ids), dtype=bool)
    places = [(ends - lengths + i, token) for i, token in enumerate(prefix)]
    places += [(ends - len(suffix) + i, token) for i, token in enumerate(suffix)]
    for place, token in places:
        ids[place], is_text[place] = token, False
    ids[is_text] = encoded.ids
    return Encoded(ids, lengths)


def _from_huggingface(description: TokenizerDescription) -> GigatokenEncoder:
    framed = description.library.encode("a")
    marks = framed.special_tokens_mask
    begin = marks.index(0)
    end = len(marks) - marks[::-1].index(0)
    return GigatokenEncoder(
        description.library.to_str(), prefix=framed.ids[:begin], suffix=framed.ids[end:]
    )


def _from_sentencepiece(description: TokenizerDescription) -> GigatokenEncoder:
    """gigatoken reads a model through a ``tokenizer.json``, which is put right here.

    Two differences: to SentencePiece a control piece as text is text, and a leading space is put
    before the document, not before every stretch between the user's own symbols as well.
    """
    from gigatoken._load.sentencepiece import sentencepiece_to_tokenizer_json

    (model,) = description.files.values()
    content = json.loads(sentencepiece_to_tokenizer_json(model))
    content["added_tokens"] = [t for t in content["added_tokens"] if not t["special"]]
    steps = content["normalizer"]["normalizers"]
    kinds = [step["type"] for step in steps]
    # Where spaces at the ends are stripped, a leading one would be too.
    leads_with_space = "Prepend" in kinds and "Strip" not in kinds
    if leads_with_space:
        del steps[kinds.index("Prepend")]
    return GigatokenEncoder(json.dumps(content), leads_with_space=leads_with_space)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else repr(error)
