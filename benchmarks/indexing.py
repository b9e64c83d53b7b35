"""`index build` against Megatron's builder, and against the tokenizers alone.

Ours is the whole command in a process of its own, from its start to its manifest: what a user waits
for. The others are timed inside this process, with their text in memory and their tokenizer loaded.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import gigatoken
import psutil
import tokenizers
import torch
from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder
from megatron.core.tokenizers import MegatronTokenizer
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from benchmarks.measure import Bench, Row, quartiles

TEXT_BYTES = 100_000_000
MEMORY_TIMES = 4
VOCAB_SIZE = 32_000
WORKERS = 2
TURNS = 5
# Of the text, every n-th document, where tokenizers of some MB a second are timed.
SLOW_EVERY = 8


@dataclass(frozen=True)
class Used:
    """What something took: seconds by the clock and of all processors, bytes at its largest."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int = 0


def rows(bench: Bench) -> Iterator[Row]:
    """Throughput, processor time and memory, on the source text of installed packages."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        bench.say(f"index: {TEXT_BYTES / 1e6:.0f} MB of text, and two tokenizers trained on it")
        text = write_text(TEXT_BYTES)
        slow = text[::SLOW_EVERY]
        for name, part in (("text", text), ("slow", slow), ("one", text[:1])):
            write_jsonl(folder / f"{name}.jsonl", part)
        train_tokenizers(text[::20], folder)
        for kind in KINDS:
            bench.say(f"index: {kind.name}")
            yield from rows_of(kind, folder, text, slow)
        yield peak_row(folder, bench)


@dataclass(frozen=True)
class Kind:
    """A kind of tokenizer, and the libraries that read it.

    Attributes:
        name: for the table.
        model: its file's name.
        megatron: its library's name in ``MegatronTokenizer``, and its path's name.
        bare: text in memory to ids by gigatoken, on all threads.
        reference: text in memory to ids by the reference library, on one.
        at_least: megabytes a second of ours over Megatron's.
    """

    name: str
    model: str
    megatron: tuple[str, str]
    bare: Callable[[Path, list[str]], Any]
    reference: Callable[[Path, list[str]], Any]
    at_least: float


def _sentencepiece(model: Path, text: list[str]) -> Any:
    return SentencePieceProcessor(model_file=str(model)).encode(text, num_threads=1)


def _tokenizers(model: Path, text: list[str]) -> Any:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return tokenizers.Tokenizer.from_file(str(model)).encode_batch_fast(text)


def _gigatoken(model: Path, text: list[str]) -> Any:
    return gigatoken.Tokenizer(str(model)).encode_batch(text, parallel=True)


KINDS = (
    Kind(
        "SentencePiece BPE",
        "sp.model",
        ("sentencepiece", "sp.model"),
        _gigatoken,
        _sentencepiece,
        at_least=4.0,
    ),
    Kind(
        "Hugging Face byte-level BPE",
        "hf/tokenizer.json",
        ("huggingface", "hf"),
        _gigatoken,
        _tokenizers,
        at_least=15.0,
    ),
)


def rows_of(kind: Kind, folder: Path, text: list[str], slow: list[str]) -> Iterator[Row]:
    """Ours, beside everything that it can be compared with."""
    size, slow_size = (sum(len(one.encode()) for one in part) for part in (text, slow))
    model = folder / kind.model
    taken: dict[str, list[Used]] = {}

    def take(name: str, used: Used) -> None:
        taken.setdefault(name, []).append(used)

    for _ in range(TURNS):
        take("ours", build(folder, "text.jsonl", model, WORKERS))
        take("ours start", build(folder, "one.jsonl", model, WORKERS))
        take("bare", in_process(lambda: kind.bare(model, text)))
        take("megatron", in_process(lambda: feed_megatron(folder, kind.megatron, slow)))
        take("start", build(folder, "one.jsonl", model, 1, "--encoder", "reference"))
        take("slow", build(folder, "slow.jsonl", model, 1, "--encoder", "reference"))
        take("own", in_process(lambda: kind.reference(model, slow)))
    what = f"index build, {kind.name}, {size / 1e6:.0f} MB, {WORKERS} workers"
    ours = [size / one.seconds / 1e6 for one in taken["ours"]]
    yield ratio_row(
        what,
        "Megatron's tokenizer and IndexedDatasetBuilder, fed in process",
        "MB/s",
        ours,
        [slow_size / one.seconds / 1e6 for one in taken["megatron"]],
        kind.at_least,
        at_most=False,
    )
    # Of 100 MB the start of a process is half, and of a corpus it is nothing.
    yield ratio_row(
        f"{what}, beyond its start",
        f"gigatoken alone, text in memory, {WORKERS} threads",
        "MB/s",
        [
            size / (one.seconds - start.seconds) / 1e6
            for one, start in zip(taken["ours"], taken["ours start"], strict=True)
        ],
        [size / one.seconds / 1e6 for one in taken["bare"]],
        0.6,
        at_most=False,
    )
    beyond_start = [
        one.cpu_seconds - start.cpu_seconds
        for one, start in zip(taken["slow"], taken["start"], strict=True)
    ]
    yield ratio_row(
        f"index build --encoder reference, {kind.name}, {slow_size / 1e6:.0f} MB, beyond its start",
        "the library's own encode, text in memory",
        "processor time",
        beyond_start,
        [one.cpu_seconds for one in taken["own"]],
        1.05,
        at_most=True,
    )


def peak_row(folder: Path, bench: Bench) -> Row:
    """Memory of a corpus and of one several times as large."""
    small = folder / "text.jsonl"
    with (folder / "large.jsonl").open("wb") as large:
        for _ in range(MEMORY_TIMES):
            large.write(small.read_bytes())
    bench.say(f"index: memory, {MEMORY_TIMES} times the text")
    model = folder / KINDS[1].model
    peaks = [
        build(folder, name, model, WORKERS).peak_bytes / 2**20
        for name in ("large.jsonl", "text.jsonl")
    ]
    return ratio_row(
        f"index build, {MEMORY_TIMES} times the text, {WORKERS} workers",
        "once the text",
        "peak memory (MiB)",
        [peaks[0]] * 2,
        [peaks[1]] * 2,
        # The tokenizer's cache grows up to its bound, and nothing else does.
        1.5,
        at_most=True,
    )


def ratio_row(
    what: str,
    against: str,
    quantity: str,
    ours: list[float],
    theirs: list[float],
    target: float,
    at_most: bool,
) -> Row:
    """A row of medians."""
    return Row(
        what,
        against,
        quantity,
        median(ours) / median(theirs),
        quartiles([a / b for a, b in zip(ours, theirs, strict=True)]),
        target,
        at_most,
        {"ours": median(ours), "theirs": median(theirs), "turns": len(ours)},
    )


def build(folder: Path, text: str, model: Path, workers: int, *flags: str) -> Used:
    """The whole command, in a process of its own; memory is of it and its workers together."""
    output = folder / "built"
    command = [sys.executable, "-m", "tst_megatron", "index", "build", str(folder / text)]
    command += ["--tokenizer", str(model), "--output", str(output / "corpus")]
    command += ["--workers", str(workers), *flags]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        peak = Peak(process.pid)
        peak.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        peak.join()
    if process.returncode:
        raise RuntimeError(f"index build ended with code {process.returncode}")
    shutil.rmtree(output)
    return Used(seconds, usage.ru_utime + usage.ru_stime, peak.bytes)


class Peak(threading.Thread):
    """Watches the memory that a process and its children have to themselves or share (PSS)."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self._process = psutil.Process(pid)
        self.bytes = 0

    def run(self) -> None:
        """Look until the process is gone."""
        while True:
            try:
                family = [self._process, *self._process.children(recursive=True)]
                now = sum(one.memory_full_info().pss for one in family)
            except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
                if not self._process.is_running() or self._is_zombie():
                    return
                continue
            self.bytes = max(self.bytes, now)
            time.sleep(0.1)

    def _is_zombie(self) -> bool:
        try:
            return bool(self._process.status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True


def in_process(work: Callable[[], Any]) -> Used:
    """Time something in this process."""
    began = time.perf_counter(), time.process_time()
    kept = work()
    ended = time.perf_counter(), time.process_time()
    del kept
    return Used(ended[0] - began[0], ended[1] - began[1])


def feed_megatron(folder: Path, library: tuple[str, str], text: list[str]) -> None:
    """What Megatron's tool does with every document, without its processes and its JSON."""
    name, path = library
    tokenizer = MegatronTokenizer.from_pretrained(
        tokenizer_path=str(folder / path), metadata_path={"library": name}
    )
    prefix = folder / "megatron"
    builder = IndexedDatasetBuilder(
        f"{prefix}.bin", dtype=DType.optimal_dtype(tokenizer.vocab_size)
    )
    for document in text:
        ids = [*tokenizer.tokenize(document), tokenizer.eod]
        builder.add_document(torch.tensor(ids), [len(ids)])
    builder.finalize(f"{prefix}.idx")


def write_text(size: int) -> list[str]:
    """Source text of the installed packages, once around and again from the start if need be."""
    root = Path(sysconfig.get_path("purelib"))
    text: list[str] = []
    while size > 0:
        for path in sorted(root.rglob("*.py")):
            document = path.read_bytes().decode(errors="ignore")
            if document.strip():
                text.append(document)
                size -= len(document.encode())
            if size <= 0:
                break
    return text


def write_jsonl(file: Path, text: list[str]) -> None:
    """Documents as JSON lines."""
    with file.open("w") as lines:
        lines.writelines(json.dumps({"text": document}) + "\n" for document in text)


def train_tokenizers(text: list[str], folder: Path) -> None:
    """One tokenizer of every kind."""
    lines = (line for document in text for line in document.split("\n") if line.strip())
    SentencePieceTrainer.train(
        sentence_iterator=lines,
        model_prefix=str(folder / "sp"),
        vocab_size=VOCAB_SIZE,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        input_sentence_size=200_000,
        minloglevel=2,
    )
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.train_from_iterator(
        text,
        tokenizers.trainers.BpeTrainer(
            vocab_size=VOCAB_SIZE,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    (folder / "hf").mkdir()
    tokenizer.save(str(folder / "hf" / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "hf" / "tokenizer_config.json").write_text(json.dumps(config))
