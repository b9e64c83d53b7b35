"""``tst-megatron recipe flags``: a recipe as a command line.

A baseline's is Megatron's own, for its ``pretrain_gpt.py`` as for our ``pretrain``; a superposed
run's has the ``--tst-`` flags too.
"""

import argparse
import shlex
import sys

from tst_megatron.corpora.blend import load_blend
from tst_megatron.recipes import recipe as recipes

EXAMPLES = """\
examples:
  tst-megatron recipe flags smollm3-3b-baseline
  torchrun --nproc-per-node 8 pretrain_gpt.py \\
      $(tst-megatron recipe flags smollm3-3b-baseline+8xh100) --data-path corpus ...
  torchrun --nproc-per-node 8 -m tst_megatron pretrain \\
      $(tst-megatron recipe flags smollm3-3b-tst+8xh100) --data-path corpus ...
"""

_SUPERPOSE = ("tst-bag-size", "tst-schedule")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The recipe."""
    parser.add_argument("recipe", help="NAME[+LAYOUT][+PRECISION], or a .yaml file of your own")


def main(args: argparse.Namespace) -> None:
    """Print the flags in one line.

    Raises:
        UserError: the recipe cannot be read.
    """
    values = recipes.load(args.recipe)
    if any(recipes.Setting(values.get(key), "").is_given for key in _SUPERPOSE):
        print(shlex.join(recipes.flags(values)))
        return
    blend = values.pop("blend", None)
    own = {key: value for key, value in values.items() if key.startswith("tst-")}
    line = recipes.flags({key: value for key, value in values.items() if key not in own})
    # Megatron has a blend too, under flags of its own.
    print(shlex.join([*line, *(load_blend(blend).flags if blend else [])]))
    if left_out := recipes.flags(own):
        print(f"left out, as Megatron has no such flag: {shlex.join(left_out)}", file=sys.stderr)
