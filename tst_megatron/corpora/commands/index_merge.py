"""``tst-megatron index merge``: several indexed corpora into one."""

import argparse
from pathlib import Path

from rich.console import Console

from tst_megatron.corpora.byte_progress import ByteProgress
from tst_megatron.corpora.indexing.output import named_prefix
from tst_megatron.corpora.manifest import manifest_path
from tst_megatron.corpora.merging import Merged, merge, open_parts

EXAMPLES = """\
examples:
  tst-megatron index merge data/part-0 data/part-1 --output data/corpus

The documents keep the order of the corpora. These are left as they are. A merge that was stopped
or killed leaves nothing under the new name; the same command begins anew.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "prefixes",
        nargs="+",
        type=Path,
        metavar="PREFIX",
        help="paths of .bin and .idx without the ending, in order",
    )
    parser.add_argument(
        "--output", required=True, metavar="PREFIX", help="of the new .bin and .idx"
    )


def main(args: argparse.Namespace) -> int:
    """Merge the corpora and say what came out.

    Raises:
        UserError: they cannot be merged.
    """
    output = named_prefix(args.output)
    parts = open_parts(args.prefixes, output)
    console = Console()
    done = 0
    with ByteProgress(console, "Merging", sum(part.size for part in parts)) as progress:

        def on_progress(size: int) -> None:
            nonlocal done
            done += size
            progress.update(done)

        merged = merge(parts, output, on_progress)
    for line in _lines(output, merged):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 0


def _lines(output: Path, merged: Merged) -> list[str]:
    lines = [f"{output}: {merged.documents:,} documents, {merged.tokens:,} tokens."]
    if merged.without_manifest:
        names = ", ".join(str(manifest_path(prefix)) for prefix in merged.without_manifest)
        lines.append(f"It has no manifest, as there is no {names}.")
    if merged.differing:
        lines.append(
            f"The corpora were indexed with different {', '.join(merged.differing)}: the manifest "
            "says nothing of these."
        )
    return lines
