"""Mixture of depths as a method; what needs torch or Megatron is imported when asked for."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tst_megatron.methods.depths import flags
from tst_megatron.methods.depths.combinations import check_beside
from tst_megatron.methods.depths.run import DepthRun
from tst_megatron.methods.depths.story import DepthStory
from tst_megatron.methods.depths.terms import DepthTerms
from tst_megatron.methods.method import Method, Run
from tst_megatron.methods.own_model import OwnCode, OwnModel, Reader
from tst_megatron.stock.layer_kinds import pattern_of

CODE = OwnCode("routed", "Routed", (Path(__file__).with_name("modeling_routed.py"),))
"""Of models that leave Megatron."""

if TYPE_CHECKING:
    from tst_megatron.checkpoints.derived import Plan


class DepthMethod(Method):
    """Blocks that work on the tokens which their routers pick (arXiv 2404.02258)."""

    name = "depths"
    flag_prefix = "mod"
    asked_by = ("mod-capacity",)
    works_on_blocks = True

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """The ``--mod-*`` group."""
        flags.add_arguments(parser)

    def check(self, args: argparse.Namespace) -> None:
        """As `flags.check`."""
        flags.check(args)

    def check_beside(self, args: argparse.Namespace) -> None:
        """As `combinations.check_beside`."""
        if self.is_on(args):
            check_beside(args)

    def is_on(self, args: argparse.Namespace) -> bool:
        """With ``--mod-capacity``."""
        return flags.is_on(args)

    def run(self, args: argparse.Namespace) -> Run:
        """As `DepthRun`."""
        return DepthRun(args)

    def why_not_without(self, before: Any) -> str:
        """The model has routers."""
        number = len(before["blocks"])
        return (
            f"has {number} routed blocks, which this run has not: give the --mod- flags that it "
            "was trained with"
        )

    def why_not_made_without(self, before: Any) -> None:
        """Its routers are left out."""

    def goes_on_without(self, before: Any) -> str:
        """A model that is made of it has none of its routers."""
        return f"has {len(before['blocks'])} routed blocks, and this run goes on without routers"

    def complete(self, plan: "Plan", args: argparse.Namespace) -> "Plan":
        """As `made.complete`."""
        from tst_megatron.methods.depths.made import complete

        return complete(plan, args)

    def why_not_exported(self, before: Any, args: argparse.Namespace) -> str | None:
        """Chance is no rule, and half a layer is no block of a family's."""
        number = len(before["blocks"])
        if before["choice"] == "random":
            return (
                f"has {number} routed blocks whose tokens chance picks (--mod-choice random), "
                "which no model in use would do: evaluate it in its run, with --evaluate-at"
            )
        if pattern_of(args) is not None:
            return (
                f"has {number} routed layers of a hybrid model (--hybrid-layer-pattern), which are "
                "attention or an MLP alone: evaluate it in its run, with --evaluate-at"
            )
        return None

    @property
    def own_code(self) -> OwnCode:
        """Blocks that go by their rules."""
        return CODE

    def own_model(self, before: Any, args: argparse.Namespace, read: Reader) -> OwnModel:
        """Routers, and what their rules need."""
        from tst_megatron.methods.depths.exported import own_model

        return own_model(before, args, read, CODE)

    def terms(self) -> DepthTerms:
        """By shares of the tokens."""
        return DepthTerms()

    def story(self) -> DepthStory:
        """Likewise."""
        return DepthStory(self.name)


METHOD = DepthMethod()
