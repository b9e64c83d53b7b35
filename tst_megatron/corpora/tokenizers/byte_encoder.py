"""Vocabularies that cut text into bytes: each id looked up, without a library's passes over it.

The one idea: where a ``tokenizer.json`` merges nothing and changes nothing, a text's ids are those
of its bytes after what is put in front, and `proof` holds that against the library as it does any
other.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

from tst_megatron.corpora.compression.hugging_face import byte_alphabet
from tst_megatron.corpora.tokenizers.encoders import Encoded, check_text, joined


class ByteEncoder:
    """Ids of bytes.

    Args:
        table: ``[256]``, the id of each byte.
        before: ids in front of every document.
    """

    def __init__(self, table: npt.NDArray[np.int32], before: Sequence[int]) -> None:
        self.name = "tst-megatron"
        self.version = version(self.name)
        self._table = table
        self._before = np.array(before, np.int32)

    def encode(self, documents: Sequence[Any]) -> Encoded:
        """See `tst_megatron.corpora.tokenizers.encoders.Encoder`."""
        check_text(documents)
        contents = (np.frombuffer(document.encode(), np.uint8) for document in documents)
        return joined([np.concatenate([self._before, self._table[one]]) for one in contents])


def byte_encoder(content: Mapping[str, Any], library: Any) -> ByteEncoder | None:
    """The encoder of a tokenizer that cuts text into bytes; None of another one.

    Args:
        content: of its ``tokenizer.json``.
        library: the tokenizer.
    """
    model, cut = content["model"], content["pre_tokenizer"] or {}
    merges_nothing = model.get("type") == "BPE" and not model.get("merges")
    is_whole = cut.get("type") == "ByteLevel" and not cut["use_regex"]
    changes_nothing = content["normalizer"] is None and not cut.get("add_prefix_space", True)
    if not (merges_nothing and is_whole and changes_nothing and library.encode_special_tokens):
        return None
    letters, vocabulary = byte_alphabet(), model["vocab"]
    if not all(letter in vocabulary for letter in letters):
        return None
    framed = library.encode("a").ids
    if framed[-1] != vocabulary["a"]:
        return None
    return ByteEncoder(np.array([vocabulary[one] for one in letters], np.int32), framed[:-1])
