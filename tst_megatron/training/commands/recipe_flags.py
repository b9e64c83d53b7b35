"""``tst-megatron recipe flags``: a recipe as a command line.

A baseline's is Megatron's own, for its ``pretrain_gpt.py`` as for our ``pretrain``; a superposed
run's has the ``--tst-`` flags too.
"""

import argparse
import shlex
import sys

from tst_megatron.training import recipes

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
    left_out: list[str] = []
    if not any(recipes.Setting(values.get(key), "").is_given for key in _SUPERPOSE):
        left_out = recipes.flags({k: v for k, v in values.items() if k.startswith("tst-")})
        values = {k: v for k, v in values.items() if not k.startswith("tst-")}
    print(shlex.join(recipes.flags(values)))
    if left_out:
        print(
            f"left out, as Megatron has no such flag: {shlex.join(left_out)}",
            file=sys.stderr,
        )
