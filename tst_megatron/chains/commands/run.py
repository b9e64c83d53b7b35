"""The subcommand ``chain run``: train a chain on this machine."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from tst_megatron.errors import INTERRUPTED_EXIT_CODE, UserError

EXAMPLES = """\
examples:
  tst-megatron chain run stacked.yaml
  tst-megatron chain run stacked.yaml --out /shared/runs/stacked --nproc-per-node 8

The same command goes on where it was cut off. docs/chains.md has the file.
"""

_WIDTH_OF_A_LOG = 120


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``chain run``."""
    add_file(parser)
    parser.add_argument(
        "--nproc-per-node",
        type=int,
        metavar="N",
        help="processes of a link (default: this machine's GPUs; 1 on a CPU)",
    )


def add_file(parser: argparse.ArgumentParser) -> None:
    """What every command of chains takes."""
    parser.add_argument("file", type=Path, metavar="FILE", help="the chain, in YAML")
    parser.add_argument(
        "--out", type=Path, help="the chain's folder (default: the file's out, or runs/ its name)"
    )


def main(args: argparse.Namespace) -> int:
    """Train a chain.

    Returns:
        The exit code: 0, or 130 where it was cut off.

    Raises:
        UserError: the file is wrong, a link that has begun was changed, or one failed.
    """
    from tst_megatron.chains.chain import chain_of, out_of
    from tst_megatron.chains.file import read_chain
    from tst_megatron.chains.running import relative, train_chain
    from tst_megatron.experiments.cells import places_here
    from tst_megatron.experiments.launch import end_on_signals

    if args.nproc_per_node is not None and args.nproc_per_node < 1:
        raise UserError(f"--nproc-per-node {args.nproc_per_node} is below 1: use 1 or more")
    file = read_chain(args.file)
    # Before FLOPs are counted, if they are, which is done as without a GPU.
    places = places_here(1, args.nproc_per_node)
    chain = chain_of(file, out_of(file, args.out))
    console = Console(width=None if sys.stdout.isatty() else _WIDTH_OF_A_LOG, highlight=False)
    end_on_signals()
    try:
        finished = train_chain(chain, places, console)
    except KeyboardInterrupt:
        finished = False
    if not finished:
        return INTERRUPTED_EXIT_CODE
    last = chain.links[-1]
    console.print(
        f"The chain {file.name} is done: {chain.num_steps:,} steps.\n"
        f"Checkpoint: {relative(last.folder)}, in Megatron's own format, to go on from with "
        f"--load.\nLedger of all links: {relative(chain.ledger)}",
        soft_wrap=True,
    )
    return 0
