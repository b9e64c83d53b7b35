"""``tst-megatron recipe list``: the recipes, their layouts and their precisions."""

import argparse

from rich.text import Text

from tst_megatron.recipes import recipe as recipes
from tst_megatron.report.terminal import console, table

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
    listed = table("recipe", "what it trains", "layouts, the default first", "precision")
    precisions: dict[str, recipes.Part] = {}
    for recipe in found:
        layouts = sorted(recipe.layouts, key=lambda name: name != recipe.layout)
        listed.add_row(
            Text(recipe.name),
            Text(recipe.about),
            Text(", ".join(layouts) or "–"),
            Text(recipe.precision or "–"),
        )
        precisions |= recipe.precisions
    explained = table("precisions", "what it trades", "GPUs")
    for name, precision in precisions.items():
        explained.add_row(
            Text(name), Text(precision.about), Text(", ".join(precision.only_on) or "any")
        )
    out = console()
    out.print(listed)
    out.print(explained)
    out.print(
        "--recipe NAME, or NAME+LAYOUT+PRECISION for others than the defaults.", highlight=False
    )
