"""``tst-megatron checkpoint inspect``: what a checkpoint is, for the eye or as JSON."""

import argparse
import json
from pathlib import Path

EXAMPLES = """\
examples:
  tst-megatron checkpoint inspect runs/mine
  tst-megatron checkpoint inspect runs/mine --step 20000 --json
  tst-megatron checkpoint inspect runs/mine/iter_0020000

Leaves with code 1 if the checkpoint is not whole. No tensor is read.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="a run's --save folder, or a step in it"
    )
    parser.add_argument("--step", type=int, metavar="N", help="default: the tracker's")
    parser.add_argument("--json", action="store_true", help="print the facts as JSON")


def main(args: argparse.Namespace) -> int:
    """Print what is known of a checkpoint.

    Raises:
        UserError: there is none.
    """
    from tst_megatron.checkpoints.description import facts_of, rows_of
    from tst_megatron.checkpoints.steps import step_folder

    folder = step_folder(args.folder, args.step)
    facts = facts_of(folder)
    if args.json:
        print(json.dumps(facts, indent=2, default=str))
    else:
        print(folder)
        for name, what in rows_of(facts):
            print(f"  {name:<10} {what}")
    return 0 if facts["is_whole"] else 1
