"""Windows of equal information: the walk against a tokenizer, and steps against a plain loop.

On one core, text in memory. The byte model is of counts; a transformer's calls are what its steps
would take, and batches are what makes them few.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import gigatoken

from benchmarks.indexing import train_tokenizers, write_text
from benchmarks.measure import Bench, Row, Work, quartiles, take_turns, time_row
from tst_megatron.corpora.compression.codes import SteppedCode
from tst_megatron.corpora.compression.growing import grown
from tst_megatron.corpora.compression.making import count_model
from tst_megatron.corpora.compression.streams import Stepping
from tst_megatron.corpora.compression.windows import Windows

_ORDER, _WINDOW_BITS, _STEPPED_BITS = 5, 16, 32
# Of text that is stepped through, each document's beginning.
_BEGINNING = 2_000


def rows(bench: Bench) -> Iterator[Row]:
    """Time of encoding, and of making the table."""
    text_bytes, turns = bench.sized((32_000_000, 5), (32_000_000, 5), (2_000_000, 2))
    bench.say(f"compressed text: {text_bytes / 1e6:.0f} MB, a byte model and a tokenizer of it")
    text = write_text(text_bytes)
    documents = [document.encode() for document in text]
    stored = count_model(documents[::4], _ORDER)
    windows = Windows(grown(stored.model, _WINDOW_BITS, "all"))
    with tempfile.TemporaryDirectory() as folder:
        train_tokenizers(text[::20], Path(folder))
        yield _walk(windows, text, str(Path(folder) / "sp.model"), turns)
    yield _steps(SteppedCode(Stepping(stored.model, _ORDER, _STEPPED_BITS), 16), documents, bench)


def _walk(windows: Windows, text: list[str], model: str, turns: int) -> Row:
    tokenizer = gigatoken.Tokenizer(model)

    def by_windows() -> Work:
        return lambda: windows.encode([document.encode() for document in text])

    def by_gigatoken() -> Work:
        return lambda: tokenizer.encode_batch(text, parallel=False)

    size = sum(len(document.encode()) for document in text) / 1e6
    return time_row(
        f"windows of {_WINDOW_BITS} bits of {size:.0f} MB, one core",
        "gigatoken's SentencePiece BPE, 32,000 pieces, the same text and core",
        by_windows,
        by_gigatoken,
        turns,
        at_most=1.0,
    )


def _steps(code: SteppedCode, documents: list[bytes], bench: Bench) -> Row:
    number, alone, turns = bench.sized((1_024, 8, 5), (1_024, 8, 5), (32, 2, 2))
    some = [document[:_BEGINNING] for document in documents if len(document) >= _BEGINNING]
    some = some[:number]
    few = some[:: max(1, len(some) // alone)]
    scale = sum(map(len, some)) / sum(map(len, few))

    def together() -> Work:
        return lambda: code.encode(some)

    def one_by_one() -> Work:
        return lambda: [code.encode([document]) for document in few]

    taken = take_turns(together, one_by_one, turns)
    ours_s, theirs_s = taken.medians
    return Row(
        f"windows of {_STEPPED_BITS} bits step by step, {len(some):,} documents at once",
        f"a loop over them ({len(few)} timed, times {scale:.3g})",
        "time",
        ours_s / (theirs_s * scale),
        quartiles([a / (b * scale) for a, b in zip(taken.ours, taken.theirs, strict=True)]),
        0.05,
        True,
        {
            "ours_kb_per_s": sum(map(len, some)) / ours_s / 1e3,
            "theirs_kb_per_s": sum(map(len, few)) / theirs_s / 1e3,
            "turns": turns,
        },
    )
