"""The command ``evaluate``: what a model scores on tasks and held-out text."""

import argparse
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from tst_megatron.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from tst_megatron.evaluation.huggingface_model import HuggingFaceModel
    from tst_megatron.evaluation.progress import RowProgress
    from tst_megatron.evaluation.report import Report
    from tst_megatron.evaluation.results import Evaluated
    from tst_megatron.evaluation.subject import Subject

EXAMPLES = """\
examples:
  tst-megatron evaluate my-model --held-out books.jsonl chinese.txt code/ --out report
  tst-megatron evaluate my-model --tasks probe_role_swap tasks/*.yaml --out report
  tst-megatron evaluate runs/tst/checkpoints --step 20000 --tasks probe_copy_order --out report
  tst-megatron evaluate my-model --tasks probe_digit_order --limit 50 --no-ledger --out look

A model is a folder of transformers or a run's checkpoints. A task is a YAML file of
lm-evaluation-harness whose data are files, or a name: probe_role_swap, probe_digit_order,
probe_copy_order, or one of the harness' own whose data are on this machine. Nothing is downloaded.
"""
_DTYPES = ("auto", "float32", "bfloat16", "float16")
_BATCH_SIZE = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``evaluate``."""
    from tst_megatron.corpora.reading.inputs import Format

    parser.add_argument("model", type=Path, metavar="MODEL", help="a folder, or checkpoints")
    parser.add_argument("--step", type=int, metavar="N", help="of checkpoints; default the last")
    parser.add_argument(
        "--tasks", nargs="+", default=[], metavar="TASK", help="YAML files, or names"
    )
    parser.add_argument(
        "--held-out", nargs="+", default=[], metavar="TEXT",
        help="files, folders or globs, each a text of its own: JSON lines, Parquet, text, "
        "compressed or not",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="a new or empty folder to write into"
    )
    parser.add_argument(
        "--batch-size", type=int, default=_BATCH_SIZE, metavar="N",
        help=f"rows that are read together (default {_BATCH_SIZE})",
    )  # fmt: skip
    parser.add_argument(
        "--limit", type=int, metavar="N", help="no more than the first N items or documents of each"
    )
    parser.add_argument(
        "--num-fewshot", type=int, metavar="N",
        help="examples before an item, in place of the tasks' own number",
    )  # fmt: skip
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="default a GPU where there is one"
    )
    parser.add_argument(
        "--dtype", choices=_DTYPES, default="auto", help="of the weights; default as they are"
    )
    parser.add_argument(
        "--max-length", type=int, metavar="N", help="tokens at a time; default what the model takes"
    )
    parser.add_argument(
        "--stride", type=int, metavar="N",
        help="tokens of a held-out text that a window scores after the first, with those before "
        "them to fill it; default all, so that windows do not overlap",
    )  # fmt: skip
    parser.add_argument(
        "--field", default="text", help="of held-out records, that has the text; default text"
    )
    parser.add_argument(
        "--format", choices=get_args(Format), help="of held-out files, instead of by their names"
    )
    ledger = parser.add_mutually_exclusive_group()
    ledger.add_argument(
        "--ledger", type=Path, metavar="FILE", help="to append the scores to; default the run's own"
    )
    ledger.add_argument("--no-ledger", action="store_true", help="append them to none")


def main(args: argparse.Namespace) -> int:
    """Evaluate, print, write, and tell the ledger.

    Args:
        args: of `add_arguments`.

    Returns:
        The exit code, 0.

    Raises:
        UserError: a flag, a model, a task or a text is wrong, or the folder cannot be written.
    """
    _check(args)
    from tst_megatron.evaluation.tasks import check_harness, forbid_downloads

    forbid_downloads()
    if args.tasks:
        check_harness()
    _check_device(args.device)
    from tst_megatron.evaluation.subject import ledger_of, subject_at
    from tst_megatron.report.terminal import console

    terminal = console()
    with subject_at(args.model, args.step) as subject:
        ledger, why_none = ledger_of(subject, args.ledger, not args.no_ledger)
        report = _report(args, subject, (why_none,) if why_none else (), terminal)
        _write(args.out, report, ledger, subject, terminal)
    return 0


def _check(args: argparse.Namespace) -> None:
    if not args.tasks and not args.held_out:
        raise UserError("there is nothing to evaluate on: give --tasks, --held-out or both")
    least = {"batch_size": 1, "limit": 1, "num_fewshot": 0, "max_length": 2, "stride": 1, "step": 0}
    for name, smallest in least.items():
        value = getattr(args, name)
        if value is not None and value < smallest:
            raise UserError(f"--{name.replace('_', '-')} {value} is below {smallest}")
    if args.num_fewshot is not None and not args.tasks:
        raise UserError("--num-fewshot is for --tasks, and there are none")
    if args.stride is not None and not args.held_out:
        raise UserError("--stride is for --held-out, and there is none")
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"--out {args.out} is a file: give a folder")
    if args.out.is_dir() and any(args.out.iterdir()):
        raise UserError(f"--out {args.out} is not empty: give another folder, or empty it")


def _make(out: Path) -> None:
    """Before the work, so that what cannot be written is known by then."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not os.access(out, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _unwritable(out, error) from None


def _unwritable(out: Path, error: OSError) -> UserError:
    return UserError(f"--out {out} cannot be written ({error.strerror}): give another folder")


def _check_device(device: str | None) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda needs a GPU, and torch finds none: leave it out")


def _report(
    args: argparse.Namespace, subject: "Subject", notes: tuple[str, ...], terminal: "Console"
) -> "Report":
    """Ask everything; what is wrong with tasks and texts is found before the model is loaded."""
    from tst_megatron.evaluation.held_out import find_texts
    from tst_megatron.evaluation.progress import RowProgress
    from tst_megatron.evaluation.report import Report
    from tst_megatron.evaluation.tasks import load_tasks, scratch_folder

    with scratch_folder() as scratch:
        tasks = load_tasks(args.tasks, args.num_fewshot, Path(scratch)) if args.tasks else {}
        texts, left_out = find_texts(args.held_out, args.field, "--held-out", args.format)
        notes = (*notes, *_warnings(args, subject), *left_out)
        twice = sorted({*tasks} & {*texts})
        if twice:
            raise UserError(f"a task and a text are both called {twice[0]}: rename one of them")
        _make(args.out)
        with RowProgress(terminal) as progress:
            model = _model(args, subject, progress)
            if args.stride is not None and args.stride > model.max_length:
                raise UserError(
                    f"--stride {args.stride} is more than the {model.max_length:,} tokens that are "
                    "read at a time: give fewer"
                )
            found = [
                *_evaluated_tasks(tasks, model, progress, args.limit),
                *_evaluated_texts(texts, model, progress, args),
            ]
    return Report(
        f"Evaluation of {subject.name}",
        tuple(found),
        {
            "model": str(subject.source),
            "step": subject.step,
            **{key: subject.facts.get(key) for key in _OF_THE_RUN},
            **model.facts,
            "limit": args.limit,
            "versions": _versions(bool(tasks)),
        },
        notes,
    )


def _warnings(args: argparse.Namespace, subject: "Subject") -> Iterator[str]:
    """What a reader should know of all scores together."""
    from tst_megatron.huggingface.provenance import warning_of

    if (warning := warning_of(subject.facts)) is not None:
        yield f"{warning[0].upper()}{warning[1:]}."
    if args.limit is not None:
        yield f"Of a task or text with more, the first {args.limit:,} alone were asked (--limit)."


_OF_THE_RUN = ("run_id", "tokenizer_sha256", "flops", "data_tokens")


def _model(
    args: argparse.Namespace, subject: "Subject", progress: "RowProgress"
) -> "HuggingFaceModel":
    from tst_megatron.evaluation.huggingface_model import HuggingFaceModel

    return HuggingFaceModel(
        subject.folder,
        subject.name,
        device=args.device,
        dtype=args.dtype,
        batch_size=args.batch_size,
        max_length=args.max_length,
        document_start=subject.document_start,
        progress=progress,
    )


def _evaluated_tasks(
    tasks: dict[str, Any], model: "HuggingFaceModel", progress: "RowProgress", limit: int | None
) -> Iterator["Evaluated"]:
    if not tasks:
        return
    from tst_megatron.evaluation.harness import run_tasks

    for name, task in tasks.items():
        progress.begin(name)
        yield from run_tasks({name: task}, model, limit)


def _evaluated_texts(
    texts: dict[str, Any],
    model: "HuggingFaceModel",
    progress: "RowProgress",
    args: argparse.Namespace,
) -> Iterator["Evaluated"]:
    from itertools import islice

    from tst_megatron.corpora.reading.chunks import read_documents
    from tst_megatron.corpora.reading.documents import ReadOptions
    from tst_megatron.evaluation.held_out import evaluate_text

    for name, files in texts.items():
        progress.begin(name)
        documents = read_documents(files, ReadOptions(field=args.field))
        yield evaluate_text(name, islice(documents, args.limit), model, args.stride)


def _versions(has_tasks: bool) -> dict[str, str]:
    from importlib.metadata import version

    names = ("tst-megatron", "torch", "transformers", *(("lm-eval",) if has_tasks else ()))
    return {name: version(name) for name in names}


def _write(
    out: Path, report: "Report", ledger: Path | None, subject: "Subject", terminal: "Console"
) -> None:
    from rich.text import Text

    from tst_megatron.evaluation.report import ITEMS, PAGE, tables_of, write_report
    from tst_megatron.evaluation.results import for_ledger
    from tst_megatron.report.table import print_table
    from tst_megatron.runs.ledger_writer import append_evaluation

    for table in tables_of(report):
        print_table(terminal, table)
    for note in report.every_note:
        terminal.print(Text(f"Note: {note}"))
    sys.stdout.flush()
    try:
        digest = write_report(out, report)
    except OSError as error:
        raise _unwritable(out, error) from None
    print(f"Report: {out / PAGE}")
    if ledger is None or subject.step is None:
        return
    items = os.path.relpath((out / ITEMS).resolve(), ledger.resolve().parent)
    try:
        append_evaluation(ledger, subject.step, for_ledger(report.evaluated, items, digest))
    except OSError as error:
        raise UserError(
            f"the report is written, and {ledger} cannot be ({error.strerror}): give it --ledger "
            "once it can"
        ) from None
    print(f"Ledger: {ledger}, step {subject.step:,}")
