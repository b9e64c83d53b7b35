"""How far a code gets with text: bytes an id, bits a byte, speed, and whether it comes back."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console

from tst_megatron.corpora.byte_progress import ByteProgress
from tst_megatron.corpora.compression.codes import Code

_BATCH_BYTES = 4 << 20


@dataclass(frozen=True)
class Measured:
    """What was found.

    Attributes:
        documents: of the text.
        text_bytes: in them.
        ids: that they became, ends of documents not among them.
        num_ids: that there are.
        used_ids: that came at least once.
        bytes_an_id: the ratio.
        uniform_bits_a_byte: what a model costs that knows the number of ids alone; it is the
            code's own strength (arXiv 2404.03626, table 3).
        unigram_bits_a_byte: likewise one that knows how often each comes, in this text.
        encoded_mb_s: 10^6 bytes a second on one core.
        decoded_mb_s: likewise.
        lossless: whether all of it came back.
    """

    documents: int
    text_bytes: int
    ids: int
    num_ids: int
    used_ids: int
    bytes_an_id: float
    uniform_bits_a_byte: float
    unigram_bits_a_byte: float
    encoded_mb_s: float
    decoded_mb_s: float
    lossless: bool

    def as_json(self) -> dict[str, Any]:
        """For a program."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """For a reader."""
        yield (
            f"{self.documents:,} documents, {self.text_bytes:,} bytes: {self.ids:,} ids, "
            f"{self.bytes_an_id:.3f} bytes an id; {self.used_ids:,} of {self.num_ids:,} ids came"
        )
        yield (
            f"Bits a byte of models that know nothing of the order: {self.uniform_bits_a_byte:.3f} "
            f"by the number of ids, {self.unigram_bits_a_byte:.3f} by how often each comes"
        )
        yield (
            f"On one core: encoded at {self.encoded_mb_s:,.3g} MB/s, decoded at "
            f"{self.decoded_mb_s:,.3g} MB/s"
        )
        yield f"Lossless: {'yes, all of it came back' if self.lossless else 'NO'}"


def measured(code: Code, documents: Sequence[bytes], console: Console) -> Measured:
    """Encode documents and decode them again.

    Args:
        code: the code.
        documents: one or more, none of them empty.
        console: shows progress.
    """
    text_bytes = sum(map(len, documents))
    counts = np.zeros(code.num_ids, np.int64)
    encoding = decoding = 0.0
    lossless, done = True, 0
    code.decode(_split(code, documents[:1]))  # Loops are compiled when they are first run.
    with ByteProgress(console, "Measuring", text_bytes) as progress:
        for some in _batches(documents):
            begun = time.perf_counter()
            encoded = code.encode(some)
            encoding += time.perf_counter() - begun
            counts += np.bincount(encoded.ids, minlength=code.num_ids)
            parts = np.split(encoded.ids, np.cumsum(encoded.lengths)[:-1])
            begun = time.perf_counter()
            back = code.decode(parts)
            decoding += time.perf_counter() - begun
            lossless = lossless and back == list(some)
            progress.update(done := done + sum(map(len, some)))
    ids = int(counts.sum())
    shares = counts[counts > 0] / ids
    return Measured(
        documents=len(documents),
        text_bytes=text_bytes,
        ids=ids,
        num_ids=code.num_ids,
        used_ids=len(shares),
        bytes_an_id=text_bytes / ids,
        uniform_bits_a_byte=float(np.log2(code.num_ids)) * ids / text_bytes,
        unigram_bits_a_byte=float(-(shares * np.log2(shares)).sum()) * ids / text_bytes,
        encoded_mb_s=text_bytes / encoding / 1e6,
        decoded_mb_s=text_bytes / decoding / 1e6,
        lossless=lossless,
    )


def _split(code: Code, documents: Sequence[bytes]) -> list[Any]:
    encoded = code.encode(documents)
    return np.split(encoded.ids, np.cumsum(encoded.lengths)[:-1])


def _batches(documents: Sequence[bytes]) -> Iterator[list[bytes]]:
    some: list[bytes] = []
    held = 0
    for document in documents:
        some.append(document)
        held += len(document)
        if held >= _BATCH_BYTES:
            yield some
            some, held = [], 0
    if some:
        yield some
