"""No-op experts at work in one run: their part at every place where a run can be changed."""

import argparse
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from tst_megatron.errors import UserError
from tst_megatron.methods.another_model import FromAnotherModel
from tst_megatron.methods.events import Listener
from tst_megatron.methods.method import Run
from tst_megatron.methods.noop_experts.flags import balanced_share
from tst_megatron.runs.stages import Fact, Stage
from tst_megatron.stock.batch_sizes import BatchSizes, train_steps

if TYPE_CHECKING:
    from tst_megatron.methods.noop_experts.figures import LastStep

NUMBER = "noop_experts"
"""Fact of a stage, and what a checkpoint remembers: N."""


class NoopRun(Run):
    """A run with no-op experts.

    Args:
        args: checked flags; those of Megatron that say how long the run is, and for what is asked
            for in training all of them.
    """

    name = "noop_experts"

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._number = int(args.noop_experts)

    @cached_property
    def last(self) -> "LastStep":
        """What is left out in a step."""
        from tst_megatron.methods.noop_experts.figures import LastStep

        return LastStep()

    @property
    def stages(self) -> tuple[Stage, ...]:
        """One."""
        return self.stages_of(train_steps(self._args))

    def stages_of(self, train_iters: int) -> tuple[Stage, ...]:
        """One."""
        samples = BatchSizes.from_args(self._args).samples_of_steps(train_iters)
        facts: dict[str, Fact] = {NUMBER: self._number}
        return (Stage(f"{self._number} no-op experts", samples, method=self.name, facts=facts),)

    @property
    def facts(self) -> Mapping[str, Any]:
        """As a checkpoint remembers them, and how many experts there are besides."""
        experts = getattr(self._args, "num_experts", None)
        return {**self.saved(), "experts": experts}

    def saved(self) -> dict[str, Any]:
        """What makes the model another one."""
        return {NUMBER: self._number}

    def check(self, args: argparse.Namespace) -> None:
        """Tell what share of the choices is nobody's."""
        if args.rank == 0:
            print(f"tst-megatron: {self._in_words(args)}", flush=True)

    def _in_words(self, args: argparse.Namespace) -> str:
        """In a sentence without its full stop."""
        beside = f"{self._number} no-op experts beside {args.num_experts}"
        if not _is_balanced(args):
            return (
                f"{beside}, and nothing balances the choices among them, so that any share may be "
                "no-ops'"
            )
        share, top_k = balanced_share(args), args.moe_router_topk
        return (
            f"{beside}: where balanced they are {100 * share:.4g} % of the choices, so that "
            f"{top_k * (1 - share):.4g} of {top_k} experts work on a token"
        )

    def check_with(self, others: Sequence[Run]) -> None:
        """Check that the run does not start from a checkpoint of another model, which is made
        without no-op experts."""
        for other in others:
            if isinstance(other, FromAnotherModel):
                raise UserError(
                    f"--noop-experts with {other.flag}: the model that is made of the other one's "
                    "checkpoint has no no-op experts yet, so train the one or the other"
                )

    def check_weights(self, args: argparse.Namespace, before: Any) -> None:
        """Routers have as many rows.

        Raises:
            UserError: they have not.
        """
        start = f"the checkpoint in {args.load or args.pretrained_checkpoint}"
        if before is None:
            raise UserError(
                f"{start} has no no-op experts, as it was trained without --noop-experts: start "
                "with them from the beginning, or leave them out"
            )
        if before[NUMBER] != self._number:
            raise UserError(
                f"{start} has {before[NUMBER]} no-op experts and this run {self._number}, which "
                f"its routers have no rows for: give --noop-experts {before[NUMBER]}"
            )

    def configure_model(self, config: Any) -> Any:
        """Every model chunk that Megatron builds has them added, before it is wrapped."""
        from tst_megatron.methods.noop_experts.model import add_to_all

        config.pre_wrap_hooks.append(
            partial(add_to_all, number=self._number, seed=int(self._args.seed))
        )
        return config

    def flops(self, args: argparse.Namespace, samples: int, ordinary: float) -> float:
        """Without those of experts that were not chosen in the last step."""
        from tst_megatron.methods.noop_experts.operations import of_choice

        return ordinary - self.last.noops * of_choice(args) if samples else ordinary

    def shares_at_work(self, chunk: Any) -> Mapping[str, float]:
        """Of experts, where choices are balanced."""
        from tst_megatron.stock.experts import is_experts

        share = 1 - balanced_share(self._args)
        return {name: share for name, _ in chunk.named_parameters() if is_experts(name)}

    def listeners(self, args: argparse.Namespace) -> Sequence[Listener]:
        """Counts and shares."""
        from tst_megatron.methods.noop_experts.figures import NoopListener

        return (NoopListener(args.num_layers + (args.mtp_num_layers or 0), self.last),)


def _is_balanced(args: argparse.Namespace) -> bool:
    kinds = args.moe_router_load_balancing_type
    kinds = [kinds] if isinstance(kinds, str) else kinds
    losses = args.moe_aux_loss_coeff
    has_loss = any(losses) if isinstance(losses, list) else bool(losses)
    by_loss = has_loss and any(kind.endswith("aux_loss") for kind in kinds)
    return by_loss or "sinkhorn" in kinds or bool(args.moe_router_enable_expert_bias)
