"""``tst-megatron index inspect``: what an indexed corpus holds, for the eye."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.text import Text

from tst_megatron.corpora.budget import Budget, Reading, check_no_empty_stage
from tst_megatron.corpora.index_file import IndexFile, bin_path
from tst_megatron.corpora.indexing.partial import leftovers
from tst_megatron.corpora.lengths import Lengths, draw_histogram, histogram_lines, lengths_of
from tst_megatron.corpora.manifest import Manifest
from tst_megatron.corpora.reading.inputs import kinds_in_words
from tst_megatron.corpora.sources import Source, split_bounds
from tst_megatron.corpora.token_text import TokenText, recorded_tokenizer
from tst_megatron.corpora.tokenizers.description import TokenizerDescription, describe
from tst_megatron.corpora.verification import open_corpus
from tst_megatron.errors import UserError
from tst_megatron.methods import registry
from tst_megatron.methods.method import Run
from tst_megatron.trainer.reading import check_seed, reading_of_run
from tst_megatron.trainer.sample_view import as_text, draw_samples

_SPLIT = "969, 30, 1"  # Megatron's, for --data-path without --split.
_INPUTS_SHOWN = 5
_TRIED_STEPS = 1 << 10  # Of a run as long as its text: where to begin to look.
_MOST_TRIED_STEPS = 1 << 40

EXAMPLES = """\
examples:
  tst-megatron index inspect data/corpus
  tst-megatron index inspect data/corpus --documents 0,5,10-12
  tst-megatron index inspect data/corpus --samples 2 --seq-length 64 --tst-bag-size 4
  tst-megatron index inspect data/corpus --samples 2 --seq-length 4096 \\
      --tst-schedule 16:0.2,4:0.1 --train-iters 10000 --global-batch-size 1024
  tst-megatron index inspect data/corpus --histogram lengths.png
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "prefix", type=Path, metavar="PREFIX", help="path of the .bin and .idx without the ending"
    )
    parser.add_argument(
        "--documents", metavar="N,N-N", help="print these documents as text; the first is 0"
    )
    parser.add_argument(
        "--tokenizer",
        metavar="MODEL_OR_JSON",
        help="turns ids into text, where no manifest names one; without any, ids are printed",
    )
    parser.add_argument(
        "--histogram", type=Path, metavar="FILE.png", help="draw the lengths of documents"
    )
    group = parser.add_argument_group(
        "samples", "Of a run on this corpus alone, exactly as its model will see them."
    )
    group.add_argument(
        "--samples", type=int, metavar="N", help="print so many, drawn at random, of every stage"
    )
    group.add_argument(
        "--positions", type=int, metavar="N", help="of a sample print the first N positions only"
    )
    group.add_argument("--seq-length", type=int, metavar="L", help="positions in a sample")
    group.add_argument(
        "--train-iters",
        type=int,
        metavar="N",
        help="steps of the run; default as many as the corpus has text for",
    )
    group.add_argument("--global-batch-size", type=int, default=1, metavar="B")
    group.add_argument("--split", default=_SPLIT, metavar="TRAIN,VALID,TEST")
    group.add_argument("--seed", type=int, default=1234, help="Megatron's, of the data")
    for method in registry.methods():
        method.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Print what is asked for: a summary and the lengths, documents, samples.

    Raises:
        UserError: the corpus or a flag cannot be used.
    """
    index, manifest = open_corpus(args.prefix)
    numbers = _numbers(args.documents, index) if args.documents is not None else []
    sampled = _sampled_run(args) if args.samples is not None else None
    description = _tokenizer(args, manifest) if numbers or sampled is not None else None
    text = TokenText(description)
    console = Console()
    lengths = lengths_of(index)
    lines: list[Text | str] = [*_summary(args.prefix, index, manifest, lengths), ""]
    lines += histogram_lines(lengths)
    if args.histogram is not None:
        title = f"{args.prefix.name}: {len(lengths.of_documents):,} documents, "
        try:
            draw_histogram(lengths, f"{title}{lengths.total:,} tokens", args.histogram)
        except OSError as error:
            raise UserError(f"{args.histogram} cannot be written: {error.strerror}") from None
        lines += ["", f"Drawn in {args.histogram}."]
    if (numbers or sampled is not None) and not text.is_known:
        lines += ["", "Ids are shown as they are: name their tokenizer with --tokenizer."]
    _print(console, lines)
    for number in numbers:
        _print(console, _document(index, number, description, text))
    if sampled is not None:
        run, reading = sampled
        for sample in draw_samples(run, reading, args.split, description, args.samples):
            _print(console, ["", *as_text(sample, text, args.positions)])
    return 0


def _print(console: Console, lines: Sequence[Text | str]) -> None:
    for line in lines:
        if isinstance(line, Text):
            console.print(line, soft_wrap=True)
        else:
            # Not through rich, which would put spaces for a document's tabs.
            print(line)


def _tokenizer(args: argparse.Namespace, manifest: Manifest | None) -> TokenizerDescription | None:
    if args.tokenizer is not None:
        return describe(args.tokenizer)
    return None if manifest is None else recorded_tokenizer(args.prefix, manifest.tokenizer)


def _numbers(text: str, index: IndexFile) -> list[int]:
    """Numbers of documents, from ``0,5,10-12``."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UserError(f"--documents {text} is not numbers: write for example 0,5,10-12")
        end = int(last if dash else first)
        if end >= index.num_documents:
            raise UserError(
                f"--documents {text}: there is no document {end}, as the corpus has "
                f"{index.num_documents:,} and the first is 0"
            )
        if end < int(first):
            raise UserError(f"--documents {text}: {part.strip()} ends before it begins")
        numbers += range(int(first), end + 1)
    return numbers


def _document(
    index: IndexFile, number: int, description: TokenizerDescription | None, text: TokenText
) -> list[Text | str]:
    first, end = (int(one) for one in index.document_boundaries[number : number + 2])
    count = int(index.lengths[first:end].sum(dtype=np.int64))
    ids: list[int] = []
    if count:
        path = bin_path(index.path.with_suffix(""))
        offset = int(index.pointers[first])
        ids = np.fromfile(path, index.dtype, count, offset=offset).tolist()
    head = f"document {number:,}: {count:,} tokens"
    eod = None if description is None else description.eod
    if eod is not None and ids and ids[-1] == eod:
        ids = ids[:-1]
        head += f", the last its end {eod}"
    return ["", Text(head, "bold"), text.document(ids)]


def _sampled_run(args: argparse.Namespace) -> tuple[Run, Reading]:
    """The run whose samples are shown, and what it reads."""
    for flag in ("samples", "positions", "seq_length", "train_iters", "global_batch_size"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise UserError(f"--{flag.replace('_', '-')} {value} is below 1: use 1 or more")
    if args.seq_length is None:
        raise UserError("a sample is as long as its sequence: add --seq-length")
    check_seed(args.seed)
    for method in registry.methods():
        method.check(args)
    training = split_bounds(args.split)[0]
    if training is None:
        raise UserError(f"--split {args.split} leaves no documents to train on: raise its first")
    sources = (Source(str(args.prefix), None, training),)

    def of_steps(steps: int) -> tuple[Run, Reading]:
        flags = argparse.Namespace(
            **vars(args) | {"train_iters": steps, "step_batch_size_schedule": None}
        )
        run = registry.run_of(flags)
        # The surplus is of blends with weights alone.
        return run, reading_of_run(flags, run, sources, surplus=0.0)

    steps = args.train_iters or Budget(_first_that_is_one(of_steps)[1]).steps_that_fit()
    if not steps:
        raise UserError(
            f"the corpus {args.prefix} is too small for one sample of every stage: lower "
            "--seq-length, or what a position reads"
        )
    run, reading = of_steps(steps)
    check_no_empty_stage(Budget(reading).stages)
    return run, reading


def _first_that_is_one(of_steps: Callable[[int], tuple[Run, Reading]]) -> tuple[Run, Reading]:
    """A run long enough for stages of a number of steps of their own."""
    steps = _TRIED_STEPS
    while steps < _MOST_TRIED_STEPS:
        try:
            return of_steps(steps)
        except UserError:
            steps *= 2
    return of_steps(steps)


def _summary(
    prefix: Path, index: IndexFile, manifest: Manifest | None, lengths: Lengths
) -> list[str]:
    percentiles = lengths.percentiles
    size = bin_path(prefix).stat().st_size
    rows = [
        ("documents", f"{index.num_documents:,}"),
        ("tokens", f"{lengths.total:,} of {index.dtype}, {size:,} bytes"),
        (
            "lengths",
            f"median {percentiles[50]:,}, mean {lengths.mean:,.1f}, 90 % no longer than "
            f"{percentiles[90]:,}, 99 % than {percentiles[99]:,}, longest {lengths.longest:,}",
        ),
    ]
    if len(index.lengths) != index.num_documents:
        rows.append(("sequences", f"{len(index.lengths):,}, so several a document"))
    if manifest is None:
        rows.append(("manifest", "none: it says no more of itself"))
    else:
        rows += _origin(manifest)
    rows += [("beside it", note) for note in leftovers(prefix)]
    return [str(prefix), *(f"  {name:<10} {what}" for name, what in rows)]


def _origin(manifest: Manifest) -> list[tuple[str, str]]:
    """What the manifest adds."""
    tokenizer = manifest.tokenizer
    rows = []
    if manifest.text_bytes:
        per_token = f"{manifest.bytes_per_token:.2f} a token"
        rows.append(("text", f"{manifest.text_bytes:,} bytes, {per_token}"))
    eod = "no end of document" if tokenizer.eod is None else f"end of document {tokenizer.eod}"
    added = "" if manifest.settings.get("append_eod") else ", not added"
    rows.append(("tokenizer", f"{tokenizer.kind}, {tokenizer.vocab_size:,} ids, {eod}{added}"))
    checked = f", {tokenizer.checked_documents:,} documents checked with the reference"
    rows.append(("ids by", tokenizer.encoder + (checked if tokenizer.checked_documents else "")))
    if tokenizer.fell_back is not None:
        rows.append(("", f"not by the faster library: {tokenizer.fell_back}"))
    size = sum(one.size for one in manifest.inputs)
    rows.append(("inputs", f"{len(manifest.inputs):,} files, {size:,} bytes"))
    for one in manifest.inputs[:_INPUTS_SHOWN]:
        rows.append(("", f"{one.path}: {one.documents:,} documents"))
    if len(manifest.inputs) > _INPUTS_SHOWN:
        rows.append(("", f"and {len(manifest.inputs) - _INPUTS_SHOWN:,} more"))
    for left_out in manifest.left_out:
        rows.append(("left out", f"of {left_out.path}: {kinds_in_words(left_out.kinds)}"))
    if manifest.filtered:
        rows.append(("filtered", f"{manifest.filtered:,} records, by --where"))
    if manifest.skipped:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in manifest.skipped.items())
        rows.append(("skipped", f"{sum(manifest.skipped.values()):,} records: {reasons}"))
    return rows
