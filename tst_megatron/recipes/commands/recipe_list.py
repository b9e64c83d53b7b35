"""``tst-megatron recipe list``: the recipes, their layouts and their precisions."""

import argparse

from tst_megatron.recipes import recipe as recipes
from tst_megatron.report.table import Table, print_table
from tst_megatron.report.terminal import console

EXAMPLES = """\
examples:
  tst-megatron recipe list
  tst-megatron recipe show smollm3-3b-tst
  tst-megatron recipe show moe-10b-a1b-tst+64xh100+fp8-blockwise
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There is nothing to choose."""


def main(args: argparse.Namespace) -> None:
    """Print what there is; without Megatron, so at once."""
    found = [recipes.read(name) for name in recipes.names()]
    listed = []
    precisions: dict[str, recipes.Part] = {}
    for recipe in found:
        layouts = sorted(recipe.layouts, key=lambda name: name != recipe.layout)
        listed.append(
            (recipe.name, recipe.about, ", ".join(layouts) or "–", recipe.precision or "–")
        )
        precisions |= recipe.precisions
    explained = [
        (name, precision.about, ", ".join(precision.only_on) or "any")
        for name, precision in precisions.items()
    ]
    out = console()
    heads = ("recipe", "what it trains", "layouts, the default first", "precision")
    print_table(out, Table.of_words(heads, listed))
    print_table(out, Table.of_words(("precisions", "what it trades", "GPUs"), explained))
    out.print("--recipe NAME, or NAME+LAYOUT+PRECISION for others than the defaults.")
