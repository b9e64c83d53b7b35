"""``tst-megatron recipe``: list, show, diff and flags.

They answer at once: they read YAML, and of Megatron a table of its flags.
"""

import argparse
import shlex
import sys
from collections.abc import Callable
from typing import Any

from tst_megatron import recipes
from tst_megatron.corpora.blend import load_blend
from tst_megatron.errors import UserError
from tst_megatron.methods import registry
from tst_megatron.recipes import COMMAND_LINE, Recipe, Setting, Variant
from tst_megatron.recipes.keys import check_keys, main_name
from tst_megatron.report.table import Table, print_table
from tst_megatron.report.terminal import console

EXAMPLES = "tst-megatron recipe JOB --help shows a job's flags."
_LIST_EXAMPLES = """\
examples:
  tst-megatron recipe list
  tst-megatron recipe show smollm3-3b-tst
  tst-megatron recipe show moe-10b-a1b-tst+64xh100+fp8-blockwise
"""
_SHOW_EXAMPLES = """\
examples:
  tst-megatron recipe show smollm3-3b-tst
  tst-megatron recipe show moe-10b-a1b-tst+64xh100+fp8-blockwise --lr 2e-4 --micro-batch-size 2
  tst-megatron recipe show mine.yaml+8xh100

Flags after the recipe win over its own, as they do after `pretrain --recipe NAME`.
"""
_DIFF_EXAMPLES = """\
examples:
  tst-megatron recipe diff smollm3-3b-baseline smollm3-3b-tst
  tst-megatron recipe diff moe-10b-a1b-tst+64xb200 moe-10b-a1b-tst+8xh100
  tst-megatron recipe diff moe-10b-a1b-tst mine.yaml
"""
_FLAGS_EXAMPLES = """\
examples:
  tst-megatron recipe flags smollm3-3b-baseline
  torchrun --nproc-per-node 8 pretrain_gpt.py \\
      $(tst-megatron recipe flags smollm3-3b-baseline+8xh100) --data-path corpus ...
  torchrun --nproc-per-node 8 -m tst_megatron pretrain \\
      $(tst-megatron recipe flags smollm3-3b-tst+8xh100) --data-path corpus ...
"""
_A_RECIPE = "NAME[+LAYOUT][+PRECISION], or a .yaml file of your own"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the jobs, and the flags of each."""
    jobs = parser.add_subparsers(required=True, metavar="JOB")

    def add(
        job: str, purpose: str, examples: str, do: Callable[[argparse.Namespace], None]
    ) -> argparse.ArgumentParser:
        added = jobs.add_parser(
            job,
            help=purpose,
            description=f"{purpose[0].upper()}{purpose[1:]}.",
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        added.set_defaults(do=do)
        return added

    add("list", "list the recipes, their layouts and precisions", _LIST_EXAMPLES, _list)
    show = add(
        "show", "show a recipe's flags, and where each value comes from", _SHOW_EXAMPLES, _show
    )
    show.add_argument("recipe", help=_A_RECIPE)
    show.add_argument(
        "overrides",
        nargs=argparse.REMAINDER,
        metavar="--FLAG VALUE",
        help="flags of Megatron's or ours, as for pretrain",
    )
    diff = add("diff", "show the flags in which two recipes differ", _DIFF_EXAMPLES, _diff)
    for name in ("first", "second"):
        diff.add_argument(name, help=_A_RECIPE)
    flags = add("flags", "print a recipe as a command line of Megatron's", _FLAGS_EXAMPLES, _flags)
    flags.add_argument("recipe", help=_A_RECIPE)


def main(args: argparse.Namespace) -> None:
    """Do the job that was asked for.

    Raises:
        UserError: a recipe cannot be read, or a key or an override is no flag.
    """
    args.do(args)


def _list(args: argparse.Namespace) -> None:
    found = [recipes.read(name) for name in recipes.names()]
    listed = []
    precisions: dict[str, Variant] = {}
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


def _show(args: argparse.Namespace) -> None:
    recipe = recipes.read(args.recipe)
    if args.overrides and not args.overrides[0].startswith("--"):
        raise UserError(f"{args.overrides[0]!r} follows the recipe and is no flag: write --FLAG")
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
        if settings[-1].source == COMMAND_LINE and len(settings) > 1
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


def _diff(args: argparse.Namespace) -> None:
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


def _flags(args: argparse.Namespace) -> None:
    """Megatron's own for a run without a method: for its ``pretrain_gpt.py`` as for ours."""
    values = recipes.load(args.recipe)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    try:
        ours, _ = registry.add_arguments(parser).parse_known_args(recipes.flags(values))
    except argparse.ArgumentError as error:
        raise UserError(f"the recipe {args.recipe} has a value that is none: {error}") from None
    if registry.active(ours):
        print(shlex.join(recipes.flags(values)))
        return
    blend = values.pop("blend", None)
    names = {name for action in parser._actions for name in action.option_strings}
    own = {key: value for key, value in values.items() if f"--{key}" in names}
    line = recipes.flags({key: value for key, value in values.items() if key not in own})
    # Megatron has a blend too, under flags of its own.
    print(shlex.join([*line, *(load_blend(blend).flags if blend else [])]))
    if left_out := recipes.flags(own):
        print(f"left out, as Megatron has no such flag: {shlex.join(left_out)}", file=sys.stderr)
