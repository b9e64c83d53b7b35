"""Growth as a method; what needs torch or Megatron is imported when asked for."""

import argparse

from tst_megatron.methods.another_model import check_beside
from tst_megatron.methods.growth import flags
from tst_megatron.methods.growth.run import GrownRun
from tst_megatron.methods.growth.story import GrowthStory
from tst_megatron.methods.growth.terms import GrowthTerms
from tst_megatron.methods.method import Method, Run


class GrowthMethod(Method):
    """A small model's layers, repeated, or its units, and training goes on (arXiv 2405.15319 and
    others).
    """

    name = "growth"
    flag_prefix = "grow"
    asked_by = ("grow", "grow-width")
    starts_from_another = True

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """The ``--grow`` group."""
        flags.add_arguments(parser)

    def check(self, args: argparse.Namespace) -> None:
        """As `flags.check`."""
        flags.check(args)

    def check_beside(self, args: argparse.Namespace) -> None:
        """Growth reads Megatron's own format, and goes on in the run that it reads."""
        if self.is_on(args):
            flag = "--grow-width" if args.grow is None else "--grow"
            check_beside(args, flag, "--grow-optimizer new")

    def is_on(self, args: argparse.Namespace) -> bool:
        """As `flags.is_on`."""
        return flags.is_on(args)

    def run(self, args: argparse.Namespace) -> Run:
        """As `GrownRun`."""
        return GrownRun(args)

    def terms(self) -> GrowthTerms:
        """As `GrowthTerms`."""
        return GrowthTerms()

    def story(self) -> GrowthStory:
        """In layers."""
        return GrowthStory(self.name)


METHOD = GrowthMethod()
