"""``tst-megatron recipe show``: every flag of a recipe, and where its value comes from."""

import argparse
from typing import Any

from tst_megatron.errors import UserError
from tst_megatron.recipes import recipe as recipes
from tst_megatron.recipes.recipe import Recipe, Setting
from tst_megatron.report.table import Table, print_table
from tst_megatron.report.terminal import console
from tst_megatron.trainer.cpu import prepare_backend

EXAMPLES = """\
examples:
  tst-megatron recipe show smollm3-3b-tst
  tst-megatron recipe show moe-10b-a1b-tst+64xh100+fp8-blockwise --lr 2e-4 --micro-batch-size 2
  tst-megatron recipe show mine.yaml+8xh100

Flags after the recipe win over its own, as they do after `pretrain --recipe NAME`.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The recipe, and flags that override it."""
    parser.add_argument("recipe", help="NAME[+LAYOUT][+PRECISION], or a .yaml file of your own")
    parser.add_argument(
        "overrides",
        nargs=argparse.REMAINDER,
        metavar="--FLAG VALUE",
        help="flags of Megatron's or ours, as for pretrain",
    )


def main(args: argparse.Namespace) -> None:
    """Print the recipe.

    Raises:
        UserError: it cannot be read, or a key or an override is no flag.
    """
    recipe = recipes.read(args.recipe)
    if args.overrides and not args.overrides[0].startswith("--"):
        raise UserError(f"{args.overrides[0]!r} follows the recipe and is no flag: write --FLAG")
    prepare_backend()
    from tst_megatron.recipes.keys import check_keys, main_name

    given = recipe.overridden(args.overrides, main_name)
    check_keys(given)
    rows = []
    for key, settings in given.settings.items():
        *before, last = settings
        earlier = ", ".join(f"{_text(one)} ({one.source})" for one in reversed(before))
        rows.append((f"--{key}", _text(last), last.source, earlier))
    out = console()
    out.print(_heading(recipe))
    out.print()
    print_table(out, Table.of_words(("flag", "value", "from", "instead of"), rows))
    out.print(_summary(given))


def _heading(recipe: Recipe) -> str:
    lines = [f"{recipe.name}: {recipe.about}"]
    parts: tuple[tuple[str, str | None, dict[str, Any]], ...] = (
        ("layout", recipe.layout, recipe.layouts),
        ("precision", recipe.precision, recipe.precisions),
    )
    for kind, name, known in parts:
        if name is not None:
            about = known[name].about
            lines.append(f"{kind} {name}" + (f": {about}" if about else ""))
    return "\n".join(lines)


def _summary(recipe: Recipe) -> str:
    overridden = [
        f"--{key}"
        for key, settings in recipe.settings.items()
        if settings[-1].source == recipes.COMMAND_LINE and len(settings) > 1
    ]
    if not overridden:
        return "The command line overrides nothing."
    return f"The command line overrides {', '.join(overridden)}."


def _text(setting: Setting) -> str:
    if not setting.is_given:
        return "left out"
    if setting.value is True:
        return "given"
    values = setting.value if isinstance(setting.value, list) else [setting.value]
    return " ".join(map(str, values))
