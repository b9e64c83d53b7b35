"""Codes without a table, against Python's own integers and against another library."""

from itertools import product

import constriction
import numpy as np
import pytest

from tests.unit.corpora.compression.text import awkward_bytes, counted, source_text
from tst_megatron.corpora.compression import arithmetic, cells
from tst_megatron.corpora.compression.codes import ByteCode, GzipCode, SteppedCode
from tst_megatron.corpora.compression.streams import Stepping

_ORDER = 3


def stepping(bits: int, reset_every: int = 1) -> Stepping:
    return Stepping(counted(_ORDER).model, _ORDER, bits, reset_every)


def frequencies(seen: bytes) -> list[int]:
    row = np.frombuffer(seen[-_ORDER:] or b"\0", np.uint8)[None]
    return counted(_ORDER).model.frequencies(row, np.array([min(_ORDER, len(seen))]))[0].tolist()


def windows_by_hand(text: bytes, bits: int, reset_every: int) -> list[int]:
    """Numbers of windows: a string's first cell is its own, the rest are those of longer ones."""
    found, at, since = [], 0, 0
    while at < len(text):
        base, rest = 0, 2**bits - 1
        while at < len(text):
            shares = frequencies(text[since:at])
            before = sum(shares[: text[at]])
            begin = rest * before >> 14
            own = (rest * (before + shares[text[at]]) >> 14) - begin
            if not own:
                break
            base, rest, at = base + 1 + begin, own - 1, at + 1
        found.append(base)
        if reset_every and len(found) % reset_every == 0:
            since = at
    return found


@pytest.mark.parametrize(("bits", "reset_every"), [(16, 1), (24, 2), (64, 1), (128, 0)])
def test_windows_are_those_of_exact_integers(bits: int, reset_every: int) -> None:
    text = source_text()[2][:400] + np.random.default_rng().bytes(30)
    (code,) = cells.cut(stepping(bits, reset_every), [text])
    width = bits // 8
    numbers = [int.from_bytes(code[at : at + width]) for at in range(0, len(code), width)]
    assert numbers == windows_by_hand(text, bits, reset_every)


def test_an_arithmetic_code_is_as_short_as_another_librarys() -> None:
    text = source_text()[3][:6_000]
    (code,) = arithmetic.code(stepping(0), [text])
    shares = np.array([[*frequencies(text[:at]), 1] for at in range(len(text) + 1)], np.float32)
    symbols = np.array([*text, 256], np.int32)
    theirs = constriction.stream.queue.RangeEncoder()
    theirs.encode(
        symbols,
        constriction.stream.model.Categorical(perfect=False),
        shares / shares.sum(axis=1, keepdims=True),
    )
    bits = -np.log2(shares[np.arange(len(symbols)), symbols] / (2**14 + 1)).sum()
    # Ours is 64 bits wide: at most a byte is left over, and a carry cut costs 2^-8 of the cases.
    assert bits / 8 <= len(code) <= bits / 8 + 4
    assert len(code) <= 4 * theirs.num_words() + 4


WAYS = ("16", "32", "64", "128", "64 every 2", "32 never", "ac", "gzip")


@pytest.mark.parametrize(("name", "token_bits"), [*product(WAYS, (8, 16)), ("24", 8), ("bytes", 8)])
def test_text_comes_back_whatever_it_is(name: str, token_bits: int) -> None:
    bits, _, resets = name.partition(" ")
    if name == "gzip":
        code = GzipCode(token_bits)
    elif name == "bytes":
        code = ByteCode()
    else:
        every = {"every 2": 2, "never": 0}.get(resets, 1)
        code = SteppedCode(stepping(0 if name == "ac" else int(bits), every), token_bits)
    documents = awkward_bytes(seed=np.random.SeedSequence().entropy % 2**32)
    encoded = code.encode(documents)
    assert encoded.ids.size == encoded.lengths.sum()
    assert (encoded.ids < code.num_ids).all()
    parts = np.split(encoded.ids, np.cumsum(encoded.lengths)[:-1])
    assert code.decode(parts) == documents
    # Each document by itself, and all at once, are the same.
    alone = [code.encode([document]).ids for document in documents]
    assert all((one == part).all() for one, part in zip(alone, parts, strict=True))


def test_a_code_that_was_cut_is_no_document() -> None:
    (code,) = arithmetic.code(stepping(0), [source_text()[0][:500]])
    with pytest.raises(ValueError, match="no zlib stream"):
        GzipCode(8).decode([np.array([1, 2, 3])])
    with pytest.raises(ValueError, match="not whole windows of 4 bytes"):
        cells.join(stepping(32), [code[:5]])
