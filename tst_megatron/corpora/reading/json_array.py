"""A JSON array of records in one file: cut at the commas between its elements, parsed one by one.

The one idea: where strings and brackets begin and end can be found for a whole block at a time, as
arrays of positions; so elements are parsed by what parses JSON lines, and one that is bad is bad
alone.
"""

from collections.abc import Iterator

import numpy as np

from tst_megatron.corpora.reading.batches import Batch, BrokenFile, DamagedError
from tst_megatron.corpora.reading.inputs import InputFile
from tst_megatron.corpora.reading.json_lines import BLOCK_BYTES, json_parser
from tst_megatron.corpora.reading.options import ReadOptions
from tst_megatron.corpora.reading.streams import BYTE_ORDER_MARK, block_size, open_stream

_QUOTE, _OPEN, _CLOSE, _COMMA = 1, 2, 3, 4
_SIGNS = {'"': _QUOTE, "[": _OPEN, "{": _OPEN, "]": _CLOSE, "}": _CLOSE, ",": _COMMA}
_SIGN_OF_BYTE = bytes(_SIGNS.get(chr(byte), 0) for byte in range(256))


def read_json_array(file: InputFile, options: ReadOptions) -> Iterator[tuple[Batch, int]]:
    """Read the elements of an array.

    Yields:
        Batches, and how much of the file has been read.

    Raises:
        BrokenFile: it is damaged, no array, or has no end.
        OSError: it cannot be read.
    """
    parse, number = json_parser(options, "element"), 0
    splitter = _ElementSplitter(options.max_record_bytes)
    try:
        with open_stream(file.path, file.compression) as stream:
            while block := stream.read(block_size(BLOCK_BYTES, len(splitter.unfinished))):
                elements = splitter.feed(block)
                batch = parse(elements, number)
                number += len(elements)
                yield batch, stream.tell()
                if splitter.wrong is not None:
                    raise BrokenFile(number + 1, splitter.wrong)
    except DamagedError as error:
        raise BrokenFile(number + 1, error.reason, error.detail) from None
    if not splitter.ended:
        raise BrokenFile(number + 1, "the JSON array ends early")


class _ElementSplitter:
    """Cuts blocks of bytes into the elements of an array; one is not held beyond ``limit`` bytes.

    Attributes:
        unfinished: what is held of the last element.
        ended: whether the array has ended.
        wrong: what makes it no array; None if nothing does.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._begun = self._any = self._too_long = False
        # As the next byte finds them:
        self._depth, self._in_string, self._escaped = 1, False, False
        self.unfinished = b""
        self.ended = False
        self.wrong: str | None = None

    def feed(self, block: bytes) -> list[bytes | None]:
        """The elements that end in a block; None for one that is too long."""
        if not self._begun:
            block = block.removeprefix(BYTE_ORDER_MARK).lstrip()
            if not block:
                return []
            if not block.startswith(b"["):
                self.wrong = "not a JSON array"
                return []
            self._begun, block = True, block[1:]
        elements: list[bytes | None] = []
        begin = 0
        for end in [] if self.ended else self._ends(block):
            self._hold(block[begin:end])
            elements.append(None if self._too_long else self.unfinished.strip())
            self.unfinished, self._too_long = b"", False
            begin = end + 1
        if not self.ended:
            self._hold(block[begin:])
        elif block[begin:].strip():
            self.wrong = "something stands after the JSON array"
        if self.ended and not self._any and elements == [b""]:
            elements = []  # An array of none; a comma before its end would be a bad one.
        self._any = self._any or bool(elements)
        return elements

    def _hold(self, content: bytes) -> None:
        if self._too_long or len(self.unfinished) + len(content) > self._limit:
            self.unfinished, self._too_long = b"", True
        else:
            self.unfinished += content

    def _ends(self, block: bytes) -> list[int]:
        """Where elements end in a block: at commas of the array, and at its own bracket."""
        if self._escaped:
            block = b" " + block[1:]
        # Pairs from the left, so that what is left of a run escapes what comes after it.
        block = block.replace(rb"\\", b"  ")
        self._escaped = block.endswith(b"\\")
        signs = np.frombuffer(block.replace(rb"\"", b"  ").translate(_SIGN_OF_BYTE), np.uint8)
        positions = np.flatnonzero(signs != 0)
        signs = signs[positions]
        is_quote = signs == _QUOTE
        # An even number of quotes before it: outside of strings.
        outside = (np.cumsum(is_quote) + self._in_string) % 2 == 0
        self._in_string = bool((np.count_nonzero(is_quote) + self._in_string) % 2)
        outside &= ~is_quote
        positions, signs = positions[outside], signs[outside]
        steps = (signs == _OPEN).astype(np.int64) - (signs == _CLOSE)
        depths = self._depth + np.cumsum(steps)
        if len(depths):
            self._depth = int(depths[-1])
        closing = np.flatnonzero(depths == 0)
        if len(closing):
            self.ended = True
            positions, signs, depths = (
                values[: closing[0] + 1] for values in (positions, signs, depths)
            )
        ends = (depths == 0) | ((depths == 1) & (signs == _COMMA))
        return positions[ends].tolist()
