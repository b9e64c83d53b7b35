"""Sparse upcycling as a method; what needs torch or Megatron is imported when asked for."""

import argparse
import os

from tst_megatron.errors import UserError
from tst_megatron.methods.another_model import check_beside
from tst_megatron.methods.method import Method, Run
from tst_megatron.methods.upcycling import flags
from tst_megatron.methods.upcycling.run import UpcycledRun
from tst_megatron.methods.upcycling.story import UpcyclingStory
from tst_megatron.methods.upcycling.terms import UpcyclingTerms


class UpcyclingMethod(Method):
    """A dense model's MLPs as experts, and training goes on (arXiv 2212.05055, 2410.07524)."""

    name = "upcycling"
    flag_prefix = "upcycle"
    starts_from_another = True

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """The ``--upcycle`` group."""
        flags.add_arguments(parser)

    def check(self, args: argparse.Namespace) -> None:
        """As `flags.check`."""
        flags.check(args)

    def check_beside(self, args: argparse.Namespace) -> None:
        """Upcycling reads Megatron's own format, and goes on in the run that it reads."""
        if not self.is_on(args):
            if getattr(args, "moe_use_upcycling", False):
                # ``load_checkpoint`` has no longer the argument that it is called with.
                raise UserError(
                    "--moe-use-upcycling ends in a TypeError in Megatron 0.19.2: name the dense "
                    "run's --save folder in --upcycle-from in its place"
                )
            return
        if not args.num_experts:
            raise UserError("--upcycle-from makes experts: say how many with --num-experts")
        start = args.upcycle_from
        if (
            start is not None
            and args.save
            and os.path.realpath(args.save) == os.path.realpath(start)
        ):
            raise UserError(
                f"--upcycle-from {start} is the --save folder as well: give the run one of its own"
            )
        folders = {os.path.realpath(one) for one in (start, args.save) if one is not None}
        if start is not None and args.load and os.path.realpath(args.load) not in folders:
            raise UserError(
                f"--upcycle-from {start} and --load {args.load} are two checkpoints to start from: "
                "leave --load out, or let it be the --save folder"
            )
        check_beside(args, "--upcycle-from", "--upcycle-optimizer new")

    def starts_from(self, args: argparse.Namespace) -> str | None:
        """The dense run's folder."""
        start: str | None = args.upcycle_from
        return start

    def start_flag(self, args: argparse.Namespace) -> str:
        """Likewise."""
        return "--load" if args.upcycle_from is None else "--upcycle-from"

    def is_on(self, args: argparse.Namespace) -> bool:
        """As `flags.is_on`."""
        return flags.is_on(args)

    def run(self, args: argparse.Namespace) -> Run:
        """As `UpcycledRun`."""
        return UpcycledRun(args)

    def terms(self) -> UpcyclingTerms:
        """As `UpcyclingTerms`."""
        return UpcyclingTerms()

    def story(self) -> UpcyclingStory:
        """In experts."""
        return UpcyclingStory(self.name)


METHOD = UpcyclingMethod()
