"""No-op experts as a method; what needs torch or Megatron is imported when asked for."""

import argparse
from typing import Any

from tst_megatron.methods.method import Method, Run
from tst_megatron.methods.noop_experts import flags
from tst_megatron.methods.noop_experts.combinations import check_beside
from tst_megatron.methods.noop_experts.run import NUMBER, NoopRun
from tst_megatron.methods.noop_experts.story import NoopStory
from tst_megatron.methods.noop_experts.terms import NoopTerms


class NoopMethod(Method):
    """Experts that do nothing, among which a router chooses (arXiv 2404.02258)."""

    name = "noop_experts"
    flag_prefix = "noop"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """The ``--noop-experts`` group."""
        flags.add_arguments(parser)

    def check(self, args: argparse.Namespace) -> None:
        """As `flags.check`."""
        flags.check(args)

    def check_beside(self, args: argparse.Namespace) -> None:
        """As `combinations.check_beside`."""
        if self.is_on(args):
            check_beside(args)

    def is_on(self, args: argparse.Namespace) -> bool:
        """With ``--noop-experts``."""
        return flags.is_on(args)

    def run(self, args: argparse.Namespace) -> Run:
        """As `NoopRun`."""
        return NoopRun(args)

    def why_not_without(self, before: Any) -> str:
        """Its routers have rows for them."""
        number = before[NUMBER]
        return (
            f"has {number} no-op experts in each layer with experts, which this run has not: give "
            f"--noop-experts {number}"
        )

    def why_not_exported(self, before: Any, args: argparse.Namespace) -> str:
        """No library has such routers."""
        return (
            f"has {before[NUMBER]} no-op experts (--noop-experts), which no model of Hugging "
            "Face's that an export writes has: evaluate it in its run, with --evaluate-at"
        )

    def terms(self) -> NoopTerms:
        """By the share of balanced choices."""
        return NoopTerms()

    def story(self) -> NoopStory:
        """In numbers of experts."""
        return NoopStory(self.name)


METHOD = NoopMethod()
