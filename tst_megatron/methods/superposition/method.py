"""Token superposition as a method; what needs torch or Megatron is imported when asked for."""

import argparse
import json
from typing import Any

from tst_megatron.methods.method import Method, NeedsGpu, Run
from tst_megatron.methods.superposition import flags
from tst_megatron.methods.superposition.combinations import check_combinations
from tst_megatron.methods.superposition.resumption import TEXT, settings, stages_of_text
from tst_megatron.methods.superposition.run import SuperposedRun
from tst_megatron.methods.superposition.search import BagSearch
from tst_megatron.methods.superposition.story import SuperpositionStory
from tst_megatron.methods.superposition.terms import SuperpositionTerms
from tst_megatron.methods.terms import Terms


class SuperpositionMethod(Method):
    """Bags of tokens in, the next bag out, then ordinary training (arXiv 2605.06546)."""

    name = "superposition"
    flag_prefix = "tst"
    forms = (frozenset({"tst-bag-size", "tst-step-ratio"}), frozenset({"tst-schedule"}))

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """The ``--tst-*`` group."""
        flags.add_arguments(parser)

    def check(self, args: argparse.Namespace) -> None:
        """As `flags.check_flags`."""
        flags.check_flags(args)

    def check_beside(self, args: argparse.Namespace) -> None:
        """As `check_combinations`."""
        if self.is_on(args):
            check_combinations(args)

    def needs_gpu(self, args: argparse.Namespace) -> tuple[NeedsGpu, ...]:
        """The loss but for its eager form: the CPU backend compiles nothing, by torch or Triton."""
        implementation = args.tst_loss_implementation
        if self.is_on(args) and implementation in ("kernel", "compiled"):
            return (NeedsGpu(f"--tst-loss-implementation {implementation}"),)
        return ()

    def is_on(self, args: argparse.Namespace) -> bool:
        """With ``--tst-bag-size`` or ``--tst-schedule``."""
        return flags.superposes(args)

    def run(self, args: argparse.Namespace) -> Run:
        """As `SuperposedRun`."""
        return SuperposedRun(args)

    def remembered(self, saved: argparse.Namespace) -> Any:
        """As it is now; checkpoints of before there were methods have it in a place of its own."""
        before = super().remembered(saved)
        if before is None:
            before = getattr(saved, "tst_superposition", None)
        if before is None:
            return None
        # Of one saved before there was a choice, or another length.
        boundary = before.get("bag_boundary", "any")
        return before | {"bag_boundary": boundary, TEXT: stages_of_text(before, saved)}

    def search(self) -> BagSearch:
        """Bag sizes and shares of the steps."""
        return BagSearch()

    def goes_on_without(self, before: Any) -> str:
        """With what becomes of its data."""
        return (
            f"was trained under the schedule {json.dumps(settings(before))}, and this run goes on "
            "without one: its data begin anew"
        )

    def story(self) -> SuperpositionStory:
        """In bags."""
        return SuperpositionStory(self.name)

    def terms(self) -> Terms:
        """As `SuperpositionTerms`."""
        return SuperpositionTerms()


METHOD = SuperpositionMethod()
