"""The subcommand ``chain show``: a chain's links as a table, or one of them as a command line."""

import argparse
import shlex
from typing import TYPE_CHECKING

from tst_megatron.chains.commands.run import add_file
from tst_megatron.errors import UserError

if TYPE_CHECKING:
    from tst_megatron.chains.chain import Chain, Link

EXAMPLES = """\
examples:
  tst-megatron chain show stacked.yaml
  tst-megatron chain show stacked.yaml --link grown --nproc-per-node 8
  tst-megatron chain show stacked.yaml --link 2 --nnodes 4 --rdzv-endpoint node-1:29500
  tst-megatron chain show stacked.yaml --names
  tst-megatron chain show stacked.yaml --link grown --flags    # a word a line, for a launcher

A link that is done ends at once with code 0, and one whose link before is not done is refused, so
that a script may start them one after the other, and again.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``chain show``."""
    add_file(parser)
    parser.add_argument(
        "--names", action="store_true", help="the links' folders, one a line: as --link takes them"
    )
    parser.add_argument("--link", metavar="NAME", help="one link, by name, number or folder")
    parser.add_argument(
        "--flags", action="store_true", help="of --link what follows pretrain, a word a line"
    )
    parser.add_argument("--nproc-per-node", type=int, metavar="N", help="torchrun's (default 1)")
    parser.add_argument("--nnodes", type=int, metavar="N", help="torchrun's (default: one node)")
    parser.add_argument(
        "--rdzv-endpoint", metavar="HOST:PORT", help="torchrun's, where the nodes meet"
    )


def main(args: argparse.Namespace) -> None:
    """Print what was asked for.

    Raises:
        UserError: the file is wrong, there is no such link, or flags contradict one another.
    """
    _check(args)
    from tst_megatron.chains.chain import chain_of, out_of
    from tst_megatron.chains.file import read_chain

    file = read_chain(args.file)
    chain = chain_of(file, out_of(file, args.out))
    if args.names:
        print(*(link.folder.name for link in chain.links), sep="\n")
    elif args.link is None:
        _print_table(chain)
    elif args.flags:
        print(*chain.link(args.link).words, sep="\n")
    else:
        print(shlex.join(_torchrun(args, chain, chain.link(args.link))))


def _check(args: argparse.Namespace) -> None:
    launch = [
        f"--{name.replace('_', '-')}"
        for name in ("flags", "nproc_per_node", "nnodes", "rdzv_endpoint")
        if getattr(args, name)
    ]
    if launch and args.link is None:
        raise UserError(f"{launch[0]} is of one link: add --link")
    if args.names and args.link is not None:
        raise UserError("--names is of all links and --link of one: give one of the two")
    if args.flags and len(launch) > 1:
        raise UserError(f"--flags are not torchrun's, so it takes no {launch[-1]}: leave one out")
    for name in ("nproc_per_node", "nnodes"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value} is below 1: use 1 or more")
    if (args.nnodes or 1) > 1 and args.rdzv_endpoint is None:
        raise UserError("--nnodes above 1 have to meet: add --rdzv-endpoint HOST:PORT")


def _torchrun(args: argparse.Namespace, chain: "Chain", link: "Link") -> list[str]:
    """A link as one node of it is started."""
    meeting = ["--standalone"]
    if args.rdzv_endpoint is not None:
        meeting = [
            f"--nnodes={args.nnodes or 1}",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={args.rdzv_endpoint}",
            f"--rdzv-id={chain.file.name}-{link.name}",
        ]
    return [
        *("torchrun", *meeting, f"--nproc-per-node={args.nproc_per_node or 1}"),
        *("-m", "tst_megatron", "pretrain", *link.words),
    ]


def _print_table(chain: "Chain") -> None:
    from tst_megatron.chains.running import is_done, relative, saved_step
    from tst_megatron.report.table import Table, print_table
    from tst_megatron.report.terminal import console

    rows = []
    for link in chain.links:
        tokens = link.data_tokens
        so_far = "done" if is_done(chain, link) else f"step {saved_step(link):,}"
        rows.append(
            (
                str(link.number),
                link.name,
                link.file.start,
                model_of(link),
                f"{link.steps:,}",
                f"{link.last:,}",
                "as it goes" if tokens is None else f"{tokens:,}",
                "" if so_far == "step 0" else so_far,
            )
        )
    columns = ("", "link", "start", "model", "steps", "until step", "data tokens", "so far")
    out = console()
    print_table(out, Table(chain.file.name, columns, tuple(rows), frozenset({1, 2, 3})))
    for line in notes_of(chain):
        out.print(line, markup=False)
    folder = relative(chain.out)
    out.print(
        f"Checkpoints: {folder}/links. Ledger: {relative(chain.ledger)}, of all links.",
        markup=False,
    )


def model_of(link: "Link") -> str:
    """A link's model in a few words."""
    args = link.args
    pattern = getattr(args, "hybrid_layer_pattern", None)
    told = f"{pattern or f'{args.num_layers} layers'}, {args.hidden_size} wide"
    if experts := getattr(args, "num_experts", None):
        told += f", {experts} experts, {args.moe_router_topk} a token"
    return told


def notes_of(chain: "Chain") -> list[str]:
    """How budgets were rounded, and which links have a schedule of their own."""
    notes = [f"Link {link.name}: {link.rounded}." for link in chain.links if link.rounded]
    notes += [
        f"Link {link.name} has a schedule of its own, counted from the chain's first step: what of "
        "it lies before the link, such as warm-up, is over."
        for link in chain.links
        if link.file.own_schedule
    ]
    return notes
