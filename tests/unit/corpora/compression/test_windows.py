"""Tables of windows, against the strings that their rules name, found the slow way."""

from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from tokenizers import Tokenizer

from tests.unit.corpora.compression.text import awkward_bytes, counted, source_text
from tst_megatron.corpora.compression.growing import RULES, grown
from tst_megatron.corpora.compression.hugging_face import EOD_TOKEN, tokenizer_files
from tst_megatron.corpora.compression.windows import Windows
from tst_megatron.corpora.tokenizers.awkward_text import awkward_strings

_BITS = 10


@cache
def windows(rule: str) -> Windows:
    return Windows(grown(counted().model, _BITS, rule))


def strings_of(table: Windows) -> list[bytes]:
    return [table.string(number) for number in range(len(table))]


def frequencies(string: bytes) -> list[int]:
    row = np.frombuffer(string or b"\0", np.uint8)[None]
    return counted().model.frequencies(row, np.array([len(string)]))[0].tolist()


def intervals(string: bytes, low: Fraction, size: Fraction):
    """Exact ones of the strings a byte longer."""
    before = 0
    for byte, share in enumerate(frequencies(string)):
        yield string + bytes([byte]), low + size * before / 2**14, size * share / 2**14
        before += share


def first_number(low: Fraction) -> int:
    """Of W bits, that begins in an interval."""
    return -((-low * 2**_BITS) // 1)


def by_the_papers_rule(delays: bool) -> set[bytes]:
    """Strings whose exact interval holds a whole one of W bits; single bytes always."""
    found: set[bytes] = set()
    todo = [(b"", Fraction(0), Fraction(1))]
    while todo:
        string, low, size = todo.pop()
        for longer, begin, width in intervals(string, low, size):
            fits = first_number(begin) + 1 <= (begin + width) * 2**_BITS
            if delays and first_number(begin) == first_number(low) and string:
                fits = False
            if fits or not string:
                found.add(longer)
                todo.append((longer, begin, width))
    return found


def test_all_ids_go_to_the_likeliest_strings() -> None:
    table = windows("all")
    kept = {b""} | set(strings_of(table))
    assert len(table) == 2**_BITS - 1
    sizes = {b"": Fraction(1)}
    others = Fraction(0)
    for string in sorted(kept, key=len):
        for longer, _, size in intervals(string, Fraction(0), sizes[string]):
            if longer in kept:
                sizes[longer] = size
            else:
                others = max(others, size)
    least = min(size for string, size in sizes.items() if len(string) > 1)
    # Widths are whole units of 2^-48 and are rounded once a byte.
    assert least >= others - Fraction(20, 2**48)


@pytest.mark.parametrize("rule", ["fit", "delay"])
def test_the_papers_rules_give_the_strings_of_exact_arithmetic(rule: str) -> None:
    expected = by_the_papers_rule(delays=rule == "delay")
    found = set(strings_of(windows(rule)))
    assert 256 < len(expected) < 2**_BITS
    assert found == expected


@pytest.mark.parametrize("rule", RULES)
def test_text_comes_back_whatever_it_is(rule: str) -> None:
    documents = awkward_bytes(seed=np.random.SeedSequence().entropy % 2**32)
    table = windows(rule)
    numbers, counts = table.encode(documents)
    parts = np.split(numbers, np.cumsum(counts)[:-1])
    assert [table.decode(part) for part in parts] == documents


def test_windows_are_numbered_as_text_is_sorted() -> None:
    strings = strings_of(windows("all"))
    assert strings == sorted(strings)


def test_a_walk_takes_the_longest_window() -> None:
    table = windows("all")
    strings = set(strings_of(table))
    text = source_text()[1][:5_000]
    numbers, _ = table.encode([text])
    at = 0
    for number in numbers.tolist():
        longest = max(
            (n for n in range(1, 256) if text[at : at + n] in strings and at + n <= len(text)),
        )
        assert table.string(number) == text[at : at + longest]
        at += longest
    assert at == len(text)


def test_hugging_faces_library_gives_the_same_ids() -> None:
    table = windows("all")
    content = tokenizer_files(strings_of(table))["tokenizer.json"]
    library = Tokenizer.from_str(content.decode())
    texts = [text for _, text in awkward_strings() if len(text) < 1_500]
    numbers, counts = table.encode([text.encode() for text in texts])
    for text, part in zip(texts, np.split(numbers, np.cumsum(counts)[:-1]), strict=True):
        assert library.encode(text).ids == part.tolist(), repr(text[:50])
        assert library.decode(part.tolist(), skip_special_tokens=False) == text
    assert library.token_to_id(EOD_TOKEN) == len(table)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not two bytes a window"),
        (b"\1\0\2", "not two bytes a window"),
        (b"\1a\2b", "every single byte"),
        (b"".join(bytes([1, byte]) for byte in range(256)) + b"\3x", "no tree"),
    ],
)
def test_what_is_no_table_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Windows.of(content)


def test_a_number_that_no_window_has_is_named() -> None:
    table = windows("all")
    with pytest.raises(ValueError, match=r"no window 1,023: they are 0 to 1,022"):
        table.decode(np.array([0, 1_023]))
