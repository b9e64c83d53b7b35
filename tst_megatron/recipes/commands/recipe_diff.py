"""``tst-megatron recipe diff``: the flags in which two recipes differ."""

import argparse

from tst_megatron.recipes import recipe as recipes
from tst_megatron.report.table import Table, print_table
from tst_megatron.report.terminal import console

EXAMPLES = """\
examples:
  tst-megatron recipe diff smollm3-3b-baseline smollm3-3b-tst
  tst-megatron recipe diff moe-10b-a1b-tst+64xb200 moe-10b-a1b-tst+8xh100
  tst-megatron recipe diff moe-10b-a1b-tst mine.yaml
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The two recipes."""
    for name in ("first", "second"):
        parser.add_argument(name, help="NAME[+LAYOUT][+PRECISION], or a .yaml file of your own")


def main(args: argparse.Namespace) -> None:
    """Print the flags that differ, as each recipe has them.

    Raises:
        UserError: a recipe cannot be read.
    """
    one, other = (_words(name) for name in (args.first, args.second))
    keys = [key for key in one | other if one.get(key) != other.get(key)]
    out = console()
    if not keys:
        out.print(f"{args.first} and {args.second} have the same flags.")
        return
    rows = [(f"--{key}", one.get(key, "–"), other.get(key, "–")) for key in keys]
    print_table(out, Table.of_words(("flag", args.first, args.second), rows))


def _words(name: str) -> dict[str, str]:
    """Flags as they stand on a command line, with the text of their values."""
    given = {key: recipes.flags({key: value}) for key, value in recipes.load(name).items()}
    return {key: " ".join(words[1:]) or "given" for key, words in given.items() if words}
