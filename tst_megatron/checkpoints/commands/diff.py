"""``tst-megatron checkpoint diff``: what differs between two checkpoints, told or as JSON."""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from tst_megatron.errors import UserError

if TYPE_CHECKING:
    from tst_megatron.checkpoints.difference import Difference

_MOST_LINES = 20  # Of one kind; the JSON has all.

EXAMPLES = """\
examples:
  tst-megatron checkpoint diff runs/one runs/other
  tst-megatron checkpoint diff runs/mine/iter_0001000 runs/mine/iter_0002000 --model-only
  tst-megatron checkpoint diff runs/on-2-ranks runs/on-8-ranks --tolerance 1e-5 --json

Leaves with code 0 if they are alike, 1 if they differ, and 2 if they cannot be compared.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    for name in ("A", "B"):
        parser.add_argument(
            name.lower(), type=Path, metavar=name, help="a run's --save folder, or a step in it"
        )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        metavar="X",
        help="how far a tensor's values may be apart, as a share of its largest (default 0)",
    )
    parser.add_argument(
        "--model-only",
        action="store_true",
        help="leave the optimizer, the schedule, the step and random states out, and of the "
        "arguments all but the model's shape",
    )
    parser.add_argument("--json", action="store_true", help="print all of it as JSON")


def main(args: argparse.Namespace) -> int:
    """Print what differs.

    Raises:
        UserError: one of them is no whole checkpoint in ``torch_dist``.
    """
    from tst_megatron.checkpoints.difference import bytes_of, difference
    from tst_megatron.checkpoints.saved import Saved
    from tst_megatron.checkpoints.steps import step_folder
    from tst_megatron.corpora.byte_progress import ByteProgress

    if not args.tolerance >= 0:
        raise UserError(f"--tolerance {args.tolerance:g} is below 0: give a share, such as 1e-5")
    one, other = (Saved(step_folder(folder)) for folder in (args.a, args.b))
    total = sum(bytes_of(tensor) for tensor in one.tensors.values())
    with ByteProgress(Console(stderr=True), "compared", total) as progress:
        found = difference(one, other, args.tolerance, args.model_only, progress.update)
    if args.json:
        print(json.dumps(found.as_json(), indent=2, default=str))
    else:
        for line in lines_of(found, args.tolerance):
            print(line)
    return 0 if found.is_alike else 1


def lines_of(found: "Difference", tolerance: float) -> Iterator[str]:
    """The difference in words, the verdict last.

    Args:
        found: it.
        tolerance: up to which values are alike.
    """
    yield from _section("arguments", _changes(found.arguments))
    yield from _section("state", _changes(found.state))
    for name, keys in zip("AB", found.only, strict=True):
        yield from _section(f"only in {name}", keys)
    yield from _section("shapes", _changes(found.shapes))
    yield from _section("dtypes", _changes(found.dtypes))
    apart = sorted(found.values.items(), key=lambda one: -one[1].relative)
    yield from _section(
        "values, the furthest apart first",
        [f"{key}: by up to {v.absolute:.3g}, {v.relative:.3g} of its largest" for key, v in apart],
    )
    yield from _section("random states", found.objects)
    if found.aside:
        yield f"{len(found.aside)} argument(s) of bookkeeping differ: {_names(found.aside)}"
    tensors = f"{found.compared:,} tensors compared"
    if found.within:
        largest = max(values.relative for values in found.within.values())
        tensors += f", {len(found.within):,} apart by up to {largest:.3g}, within {tolerance:g}"
    elif not found.values and not found.shapes:
        tensors += ", equal in every value"
    yield f"{'alike' if found.is_alike else 'different'}: {tensors}"


def _changes(found: Mapping[str, tuple[Any, Any]]) -> list[str]:
    return [f"{name}: {_short(one)} -> {_short(other)}" for name, (one, other) in found.items()]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _names(found: Mapping[str, Any]) -> str:
    names = sorted({name.partition(".")[0] for name in found})
    more = f" and {len(names) - _MOST_LINES} more" if len(names) > _MOST_LINES else ""
    return f"{', '.join(names[:_MOST_LINES])}{more}"


def _section(name: str, lines: list[str]) -> Iterator[str]:
    if not lines:
        return
    yield f"{name}:"
    yield from (f"  {line}" for line in lines[:_MOST_LINES])
    if len(lines) > _MOST_LINES:
        yield f"  and {len(lines) - _MOST_LINES:,} more; --json has all"
