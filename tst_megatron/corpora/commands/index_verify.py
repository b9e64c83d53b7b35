"""``tst-megatron index verify``: whether a corpus is whole, and where it is bad."""

import argparse
import os
from pathlib import Path

from rich.console import Console

from tst_megatron.corpora.byte_progress import ByteProgress
from tst_megatron.corpora.index_file import bin_path, index_path
from tst_megatron.corpora.indexing.partial import leftovers
from tst_megatron.corpora.verification import Verdict, check_there, verify
from tst_megatron.errors import UserError

BAD_EXIT_CODE = 1
_MOST_WORKERS = 4  # The whole file's SHA-256 is made on one core: more find nothing to do.
_FINDINGS_SHOWN = 10

EXAMPLES = """\
examples:
  tst-megatron index verify data/corpus
  tst-megatron index verify data/corpus --vocab-size 32000    indexed by Megatron's own tool

Leaves with code 0 if the corpus is whole, 1 if it is bad, and 2 if it is not there.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "prefix", type=Path, metavar="PREFIX", help="path of the .bin and .idx without the ending"
    )
    parser.add_argument(
        "--vocab-size",
        type=int,
        metavar="N",
        help="check that ids are below N (default: what the manifest says)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        default=min(_MOST_WORKERS, len(os.sched_getaffinity(0))),
        help=f"threads (default: the cores, and no more than {_MOST_WORKERS})",
    )


def main(args: argparse.Namespace) -> int:
    """Check the corpus and say what was found.

    Raises:
        UserError: it is not there, or a flag cannot be.
    """
    for flag, value in (("--vocab-size", args.vocab_size), ("--workers", args.workers)):
        if value is not None and value < 1:
            raise UserError(f"{flag} {value} is below 1: use 1 or more")
    prefix: Path = args.prefix
    check_there(prefix)
    console = Console()
    total = sum(path(prefix).stat().st_size for path in (bin_path, index_path))
    done = 0
    with ByteProgress(console, "Verifying", total) as progress:

        def on_progress(size: int) -> None:
            nonlocal done
            done += size
            progress.update(done)

        verdict = verify(prefix, args.vocab_size, args.workers, on_progress)
    lines = [*_lines(prefix, verdict), *(f"Beside it: {note}." for note in leftovers(prefix))]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return BAD_EXIT_CODE if verdict.findings else 0


def _lines(prefix: Path, verdict: Verdict) -> list[str]:
    checked = [f"Checked: {'; '.join(verdict.checked)}."]
    if verdict.unchecked:
        checked.append(f"Not checked: {'; '.join(verdict.unchecked)}.")
    if not verdict.findings:
        what = f"{verdict.documents:,} documents, {verdict.tokens:,} tokens"
        word = (
            "nothing is wrong with it as far as it can be checked"
            if verdict.unchecked
            else ("whole")
        )
        return [f"{prefix}: {word}: {what}.", *checked]
    first, *others = verdict.findings
    lines = [f"{prefix}: bad.", f"First bad bytes: {first}."]
    lines += [f"Also: {finding}." for finding in others[:_FINDINGS_SHOWN]]
    if len(others) > _FINDINGS_SHOWN:
        lines.append(f"Also: {len(others) - _FINDINGS_SHOWN:,} ranges more.")
    return [*lines, *checked]
