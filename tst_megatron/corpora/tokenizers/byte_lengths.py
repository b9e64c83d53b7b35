"""How many bytes of text each id stands for, so that losses a token can be told a byte."""

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from tst_megatron.corpora.compression.hugging_face import byte_alphabet
from tst_megatron.corpora.tokenizers.description import TokenizerDescription

Lengths = npt.NDArray[np.int32]
_SPACE = "▁"  # As SentencePiece writes it in pieces.


def byte_lengths(description: TokenizerDescription) -> Lengths | None:
    """Of a tokenizer's ids.

    What a tokenizer does to text before it cuts it (Unicode's normal forms, a space in front) is in
    the bytes that it counts; ends of documents and other marks are of none.

    Returns:
        ``[V]``, int32; None where an id alone stands for nothing: ids that came as ids, windows of
        several ids, and decoders that join tokens in other ways.
    """
    of_kind = {
        "compressor": _of_compressor,
        "sentencepiece": _of_sentencepiece,
        "huggingface": _of_hugging_face,
        "tiktoken": _of_tiktoken,
    }.get(description.kind)
    return None if of_kind is None else of_kind(description)


def _of_compressor(description: TokenizerDescription) -> Lengths | None:
    compressor = description.library
    if not compressor.is_a_string_an_id:
        return None
    strings = np.ones(256) if compressor.windows is None else compressor.windows.lengths
    return np.append(strings, 0).astype(np.int32)


def _of_sentencepiece(description: TokenizerDescription) -> Lengths:
    processor = description.library

    def length(one: int) -> int:
        if processor.is_byte(one):
            return 1
        if processor.is_control(one) or processor.is_unknown(one) or processor.is_unused(one):
            return 0
        return len(processor.id_to_piece(one).replace(_SPACE, " ").encode())

    return np.array([length(one) for one in range(description.vocab_size)], np.int32)


def _of_hugging_face(description: TokenizerDescription) -> Lengths | None:
    content = json.loads(description.library.to_str())
    decoder = content["decoder"] or {}
    steps = {one.get("type") for one in (decoder, *decoder.get("decoders", ()))}
    found = np.zeros(description.vocab_size, np.int32)
    for token, one in description.library.get_vocab(with_added_tokens=False).items():
        if "ByteLevel" in steps:
            found[one] = len(token)
        elif "ByteFallback" in steps or "Metaspace" in steps:
            is_byte = len(token) == 6 and token.startswith("<0x") and token.endswith(">")
            found[one] = 1 if is_byte else len(token.replace(_SPACE, " ").encode())
        else:
            return None
    if "ByteLevel" in steps and not _is_in_alphabet(description.library):
        return None
    for one, token in description.library.get_added_tokens_decoder().items():
        found[one] = 0 if token.special else len(token.content.encode())
    return found


def _is_in_alphabet(tokenizer: Any) -> bool:
    """Whether tokens are written in the characters of bytes, as the decoder reads them."""
    letters = set(byte_alphabet())
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    tokens = tokenizer.get_vocab(with_added_tokens=False)
    return all(letters.issuperset(token) for token in tokens if token not in added)


def _of_tiktoken(description: TokenizerDescription) -> Lengths:
    encoding, special = description.library, len(description.special_tokens)
    found = [0] * special
    found += [
        len(encoding.decode_single_token_bytes(one))
        for one in range(special, description.vocab_size)
    ]
    return np.array(found, np.int32)
