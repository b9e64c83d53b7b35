"""What no-op experts change in a plan: the experts' operations, and rows of routers."""

import argparse
from collections.abc import Mapping, Sequence

from tst_megatron.methods.noop_experts import flags
from tst_megatron.methods.terms import Terms
from tst_megatron.runs.stages import Fact, Stage
from tst_megatron.stock.layer_kinds import WITH_EXPERTS, kinds_of


class NoopTerms(Terms):
    """By the share of the choices that is nobody's where they are balanced."""

    def layer_weights(self, args: argparse.Namespace, layer: int) -> Mapping[str, int]:
        """Rows of a router."""
        if not flags.is_on(args) or kinds_of(args)[layer] not in WITH_EXPERTS:
            return {}
        return {"router": int(args.noop_experts) * int(args.hidden_size)}

    def layer_work(
        self,
        args: argparse.Namespace,
        stage: Stage,
        layer: int,
        ordinary: Mapping[str, int],
    ) -> Mapping[str, int]:
        """The experts' share of it."""
        if not flags.is_on(args) or "experts" not in ordinary:
            return ordinary
        left = 1 - flags.balanced_share(args)
        return {**ordinary, "experts": round(ordinary["experts"] * left)}

    def notes(self, args: argparse.Namespace, stages: Sequence[Stage]) -> Sequence[str]:
        """What the plan supposes."""
        if not flags.is_on(args):
            return ()
        return (
            f"{100 * flags.balanced_share(args):.4g} % of the choices of experts are counted as "
            "no-ops', as where they are balanced; memory and traffic are those of no such choice, "
            "which is the most that a step can come to",
        )

    @property
    def facts(self) -> Mapping[str, Fact]:
        """None."""
        return {"noop_experts": 0}
