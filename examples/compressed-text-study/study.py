"""What compressed text is worth at equal FLOPs: real runs on the same bytes, each at its own rate.

    python examples/compressed-text-study/study.py --out runs/compressed-text-study

The same model reads the same text as bytes, as subwords, as windows of equal information and as an
arithmetic code, with bags and without, and as bytes with hashed n-grams beside them. Every run has
the same FLOPs, a larger vocabulary's among them, and is held against the others in bits a byte of
the same held-out documents. It can be cut off at any point: the same command goes on. A run whose
compressed ledger lies in ``--ledgers`` is not trained again; ``--list`` says what there is to do
and about how long it takes.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from tst_megatron import recipes
from tst_megatron.corpora import small_corpora
from tst_megatron.corpora.compression import making
from tst_megatron.corpora.compression.compressor import Settings
from tst_megatron.corpora.indexing.build import build
from tst_megatron.corpora.indexing.plan import BuildSettings
from tst_megatron.corpora.manifest import manifest_path
from tst_megatron.corpora.reading.documents import ReadOptions
from tst_megatron.corpora.tokenizers.description import describe
from tst_megatron.corpora.tokenizers.training import train_tokenizer
from tst_megatron.errors import user_errors_exit
from tst_megatron.experiments import study as experiments
from tst_megatron.experiments.cells import Cell
from tst_megatron.experiments.tuning import rates_to_try
from tst_megatron.files import folder_when_whole, replace_when_whole, write_whole
from tst_megatron.methods.ngrams.flags import orders_in

BUDGET = 1.5e13
"""FLOPs of a run, as the ledger counts them; a run comes nearest in whole steps."""
SEEDS = (1, 2, 3)
# Rates are chosen with a seed and a length that no figure is taken of.
RATE_SEED, RATE_LENGTH = 4, 0.5
BAG_SIZE, BAG_SHARE = 4, 0.3
VOCAB_SIZE = 4_096
"""Of subwords and of windows alike: that of 12 bits."""

_HIDDEN, _FFN, _SEQUENCE, _BATCH, _LAYERS = 128, 384, 128, 4, 4
_POSITIONS = _SEQUENCE * _BATCH
_WARMUP, _DECAY = 200, 0.1
_HIGHEST_RATE = 2e-3
_CHECKPOINTS = 5
_LOG_INTERVAL = 25
_ORDER = 5
# Held out are whole documents, the same for all; the last ones, in an order drawn once.
_HELD_OUT_BYTES, _TEXT_BYTES = 400_000, 120_000_000
_PIECES_OF = 4_000_000
# Of a step on one core, as measured on models of 0.05 to 3.6 M parameters; of the rest, about.
_STEP_S, _PARAMETER_S, _START_S = 8e-3, 52e-9, 30.0


@dataclass(frozen=True)
class Text:
    """A way of making ids of text.

    Attributes:
        name: of it.
        vocab_size: ids, with the end of a document.
        settings: of the compressor; None of subwords.
        same_as: the text whose ids these are, if they are another's.
        ngrams: rows of hashed n-grams that the model has beside its embedding, by their lengths.
    """

    name: str
    vocab_size: int
    settings: Settings | None
    same_as: str | None = None
    ngrams: tuple[int, str] | None = None

    @property
    def parameters(self) -> int:
        """Of a model that reads it."""
        layer = 4 * _HIDDEN**2 + 3 * _HIDDEN * _FFN + 2 * _HIDDEN
        rows = 2 * self.vocab_size
        if self.ngrams is not None:
            rows += self.ngrams[0] * len(orders_in(self.ngrams[1]))
        return _LAYERS * layer + rows * _HIDDEN + _HIDDEN

    @property
    def flops_a_step(self) -> int:
        """As Megatron counts them, and so the ledger."""
        layer = 4 * _HIDDEN**2 + 3 * _HIDDEN * _FFN + _SEQUENCE * _HIDDEN
        return 6 * _POSITIONS * (_LAYERS * layer + _HIDDEN * self.vocab_size)

    def steps(self, flops: float) -> int:
        """That come nearest to FLOPs."""
        return round(flops / self.flops_a_step)

    def hours(self, steps: int) -> float:
        """About, of a run on one core."""
        a_step = _STEP_S + _PARAMETER_S * self.parameters
        held_out = _HELD_OUT_BYTES / _POSITIONS / 3
        return (_START_S + a_step * (steps + held_out)) / 3600

    def flags(self, root: Path) -> tuple[str, ...]:
        """Megatron's, of a run that reads it; the tokenizer is the corpora's."""
        data = root / "data" / (self.same_as or self.name)
        model: tuple[str, ...] = ()
        if self.ngrams is not None:
            model = (f"--ngram-rows={self.ngrams[0]}", f"--ngram-orders={self.ngrams[1]}")
        return (
            f"--train-data-path={data / 'train'}",
            f"--valid-data-path={data / 'held-out'}",
            f"--data-cache-path={data / 'cache'}",
            *model,
        )


BYTES = Text("bytes", 257, Settings("bytes", 8))
NGRAMS = Text("bytes-ngrams", 257, None, same_as="bytes", ngrams=(2_048, "2-6"))
"""Bytes with hashed n-grams beside them: 1.3 M parameters, looked up."""
SUBWORDS = Text("subwords", VOCAB_SIZE, None)
WINDOWS = Text("windows-12", VOCAB_SIZE, Settings("equal-info", 12, 12, "all"))
HALVES = Text("windows-16-in-8", 257, Settings("equal-info", 8, 16, "all"))
CODE = Text("ac-8", 257, Settings("ac", 8))
TEXTS = (BYTES, SUBWORDS, WINDOWS, HALVES, CODE)


@dataclass(frozen=True)
class Run:
    """One run of the study.

    Attributes:
        part: ``rate``, or ``final``.
        text: that it reads.
        seed: of it.
        rate: its highest learning rate.
        length: its FLOPs over the budget.
        bags: share of its steps in which it reads bags.
    """

    part: str = field(compare=False)
    text: Text
    seed: int
    rate: float
    length: float = 1.0
    bags: float = 0.0

    @property
    def name(self) -> str:
        """Of its folder and of its ledger."""
        words = [self.text.name]
        if self.part == "rate":
            words = ["rate", *words, f"lr{self.rate:.3g}"]
        if self.bags:
            words.append(f"bags{100 * self.bags:g}")
        return "-".join([*words, f"seed{self.seed}"])

    @property
    def steps(self) -> int:
        """Of it."""
        return self.text.steps(self.length * BUDGET)

    @property
    def hours(self) -> float:
        """About, on one core."""
        return self.text.hours(self.steps)

    def cell(self, root: Path) -> Cell:
        """As it is trained."""
        steps = self.steps
        own: tuple[str, ...] = ()
        if self.bags:
            own = (f"--tst-schedule={BAG_SIZE}:{round(self.bags * steps)}steps",)
        recipe = recipes.load("tiny")
        # The tokenizer and the parts of the text are the corpora's own.
        tiny = {name: recipe[name] for name in recipe if name not in ("tokenizer-type", "split")}
        flags = (
            *recipes.flags(tiny),
            f"--num-layers={_LAYERS}",
            *self.text.flags(root),
            "--full-validation",
            f"--train-iters={steps}",
            f"--lr-warmup-iters={_WARMUP}",
            f"--lr-wsd-decay-iters={round(_DECAY * steps)}",
            f"--eval-interval={2 * steps}",
            f"--save-interval={max(1, steps // _CHECKPOINTS)}",
            f"--log-interval={_LOG_INTERVAL}",
            f"--tensorboard-log-interval={_LOG_INTERVAL}",
            f"--lr={self.rate!r}",
            f"--seed={self.seed}",
            *own,
        )
        return Cell(self.name, flags, steps, None)


class Study(experiments.Study[Run]):
    """Every text, and bags of four of them."""

    def rate_runs(self, text: Text) -> list[Run]:
        """Those that choose a rate: four, and more where the best is at an edge."""

        def at(rate: float) -> Run:
            return Run("rate", text, RATE_SEED, rate, RATE_LENGTH)

        rates = rates_to_try(_HIGHEST_RATE, lambda rate: self.loss(at(rate)))
        return [at(rate) for rate in rates]

    def rate(self, text: Text) -> float | None:
        """The chosen one, of two digits; None while the runs that choose it are not done."""

        def tried() -> dict[float, float | None]:
            return {run.rate: self.loss(run) for run in self.rate_runs(text)}

        return self.rates.rate(text.name, tried)

    def runs(self) -> list[Run]:
        """All that can be told of now, in their order: what answers most comes first."""
        found: list[Run] = []
        found += self._finals((SUBWORDS, WINDOWS, BYTES))
        found += self._finals((SUBWORDS, WINDOWS, BYTES), BAG_SHARE)
        found += self._finals((NGRAMS,))
        found += self._finals((NGRAMS,), BAG_SHARE)
        found += self._finals((HALVES, CODE))
        return list(dict.fromkeys(found))

    def _finals(self, texts: Sequence[Text], bags: float = 0.0) -> Iterator[Run]:
        for text in texts:
            yield from self.rate_runs(text)
        for seed in SEEDS:
            for text in texts:
                if (rate := self.rate(text)) is not None:
                    yield Run("final", text, seed, rate, bags=bags)


def make_texts(root: Path, console: Console) -> None:
    """Index the same documents in every way, where that is not done yet."""
    folder = root / "data"
    folder.mkdir(parents=True, exist_ok=True)
    parts = {name: folder / f"{name}.jsonl" for name in ("train", "held-out")}
    if not all(path.exists() for path in parts.values()):
        for path, documents in zip(parts.values(), _split(), strict=True):
            with replace_when_whole(path) as file:
                file.writelines(json.dumps({"text": one}).encode() + b"\n" for one in documents)
    model = None
    for text in TEXTS:
        if all(manifest_path(folder / text.name / name).exists() for name in parts):
            continue
        tokenizer = folder / f"{text.name}.tokenizer"
        if text.settings is None:
            if not tokenizer.exists():
                with console.status("Training the tokenizer"):
                    train_tokenizer(_training(parts["train"], _PIECES_OF), tokenizer, VOCAB_SIZE)
        elif not tokenizer.exists():
            with console.status(f"Making the compressor {text.name}"):
                if model is None and text.settings.method != "bytes":
                    training = _training(parts["train"], _TEXT_BYTES // 2)
                    model = making.count_model((one.encode() for one in training), _ORDER)
                needed = model if text.settings.method != "bytes" else None
                made = making.compressor(text.settings, needed)
                with folder_when_whole(tokenizer) as new:
                    for name, content in made.files.items():
                        write_whole(new / name, content)
        (folder / text.name).mkdir(exist_ok=True)
        for name, path in parts.items():
            settings = BuildSettings(
                inputs=(str(path),),
                format="jsonl",
                options=ReadOptions(),
                where=None,
                tokenizer=describe(str(tokenizer)),
            )
            build(settings, folder / text.name / name, console)


def _split() -> tuple[list[str], list[str]]:
    """Documents to train on, and those that are held out."""
    held_out: list[str] = []
    training: list[str] = []
    room, left = _HELD_OUT_BYTES, _TEXT_BYTES
    for document in small_corpora.documents_of(small_corpora.environment_files()):
        size = len(document.encode())
        if room > 0 and size <= room:
            held_out.append(document)
            room -= size
            if room < 2_000:  # No document is left out for being long at the end.
                room = 0
        elif left > 0:
            training.append(document)
            left -= size
        if room <= 0 and left <= 0:
            break
    return training, held_out


def _training(path: Path, size: int) -> Iterator[str]:
    """The first documents, as far as so many bytes go."""
    with path.open() as file:
        for line in file:
            text = json.loads(line)["text"]
            yield text
            size -= len(text.encode())
            if size <= 0:
                return


if __name__ == "__main__":
    with user_errors_exit():
        sys.exit(
            experiments.run_study(__doc__, Path("runs/compressed-text-study"), Study, make_texts)
        )
