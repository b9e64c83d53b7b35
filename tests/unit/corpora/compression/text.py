"""Text to count bytes of, and text to compress."""

import random
import sysconfig
from functools import cache
from pathlib import Path

from tst_megatron.corpora.compression.byte_models import StoredByteModel
from tst_megatron.corpora.compression.making import count_model

_FILES = 60


@cache
def source_text() -> tuple[bytes, ...]:
    """Some files of the standard library."""
    found = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:_FILES]
    return tuple(file.read_bytes() for file in found)


@cache
def counted(order: int = 3) -> StoredByteModel:
    """A byte model of it."""
    return count_model(source_text(), order)


def awkward_bytes(seed: int) -> list[bytes]:
    """Documents that text is not, and some that it is."""
    draw = random.Random(seed)
    return [
        b"",
        b"\0",
        b"\xff" * 300,
        bytes(range(256)),
        draw.randbytes(700),
        "naïve 世界 \u202e👩‍👩‍👧".encode(),
        b" " * 500 + b"\n" * 40,
        b"<|end of document|><|endoftext|>",
        source_text()[0][:3_000],
    ]
