"""Mixture of depths at work in one run: its part at every place where a run can be changed."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from tst_megatron.errors import UserError
from tst_megatron.methods.depths import flags
from tst_megatron.methods.depths.settings import CAPACITY, LEAST, Routing, ranks_of
from tst_megatron.methods.events import Listener
from tst_megatron.methods.method import Evaluation, MicroBatch, Run
from tst_megatron.runs.stages import ORDINARY, Stage
from tst_megatron.stock.batch_sizes import BatchSizes, train_steps

if TYPE_CHECKING:
    from tst_megatron.methods.depths.block import Now

RANKED_LOSS = "lm loss by rank"
"""The held-out loss where blocks take the highest scores as in training."""


class DepthRun(Run):
    """A run with routed blocks.

    Args:
        args: checked flags; those of Megatron that say how long the run is, and for what is asked
            for in training all of them.
    """

    name = "depths"

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._shares = flags.capacities(args.mod_capacity)
        # Steps of a model without routers that this one was made from.
        self._since = 0
        self._is_made = False

    @cached_property
    def routing(self) -> Routing:
        """Of the model.

        Raises:
            UserError: it has no such blocks.
        """
        return Routing.of(self._args)

    @cached_property
    def now(self) -> "Now":
        """What all routed blocks go by at the moment."""
        from tst_megatron.methods.depths.block import Now

        return Now()

    @property
    def stages(self) -> tuple[Stage, ...]:
        """One of the capacity; before it, those of the warm-up, and of a model without routers."""
        return self.stages_of(train_steps(self._args))

    def stages_of(self, train_iters: int) -> tuple[Stage, ...]:
        """Likewise.

        Raises:
            UserError: the warm-up is longer, or has stages of no step.
        """
        sizes = BatchSizes.from_args(self._args)
        whole = sizes.samples_of_steps(train_iters)
        ends = self._ends_of_warmup(train_iters)
        begin = min(sizes.samples_of_steps(self._since), whole)
        stages = [Stage(ORDINARY, begin, facts={CAPACITY: 1.0, LEAST: 0.0})] if begin else []
        for least, step in ends:
            end = sizes.samples_of_steps(step)
            stages.append(self._stage(end - begin, least))
            begin = end
        return (*stages, self._stage(whole - begin, 0.0))

    def _ends_of_warmup(self, train_iters: int) -> list[tuple[float, int]]:
        """(capacity that no block has less of, the step it ends after), one a halving."""
        steps, first = int(self._args.mod_warmup_steps), self._since
        if not steps:
            return []
        if first + steps >= train_iters > 0:
            after = f", of which {first:,} are before its routers," if first else ""
            raise UserError(
                f"--mod-warmup-steps {steps:,} is the whole run of {train_iters:,}{after}: give "
                "fewer"
            )
        shares, share = [], 1.0
        while share > min(self._shares):
            shares.append(share)
            share /= 2
        if steps < len(shares):
            raise UserError(
                f"--mod-warmup-steps {steps} is less than a step for each of {len(shares)} "
                f"halvings down to {min(self._shares):g}: give {len(shares)} or more"
            )
        return [(one, first + steps * place // len(shares)) for place, one in enumerate(shares, 1)]

    def _stage(self, samples: int, least: float) -> Stage:
        shares = [max(one, least) for one in sorted(self._shares)]
        words = " to ".join(f"{100 * one:.4g} %" for one in dict.fromkeys((shares[0], shares[-1])))
        return Stage(
            f"{words} of the tokens in routed blocks",
            samples,
            method=self.name,
            facts={
                CAPACITY: sum(shares) / len(shares),
                LEAST: least,
            },
        )

    @property
    def facts(self) -> Mapping[str, Any]:
        """As a checkpoint remembers them."""
        return self.saved()

    def saved(self) -> dict[str, Any]:
        """What makes the model and its training another one."""
        routing = self.routing
        return {
            "blocks": [[block, share] for block, share in routing.blocks.items()],
            "sampling": routing.sampling,
            "choice": routing.choice,
            "loss_coefficient": routing.coefficient,
            "threshold_decay": routing.decay,
            "parts": routing.parts,
            "warmup_steps": int(self._args.mod_warmup_steps),
            "since_step": self._since,
        }

    def check(self, args: argparse.Namespace) -> None:
        """Check that blocks are there; tell how many tokens they take."""
        if args.rank == 0:
            print(f"tst-megatron: {self.in_words()}", flush=True)

    def in_words(self) -> str:
        """What is routed, in a sentence without its full stop."""
        routing, length = self.routing, int(self._args.seq_length)
        numbers = {
            b: routing.tokens(c, length, ranks_of(self._args)) for b, c in routing.blocks.items()
        }
        counts = sorted(set(numbers.values()))
        each = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
        parts = f", as many in each of {routing.parts} parts" if routing.parts > 1 else ""
        return (
            f"{len(numbers)} of {self._args.num_layers} blocks work on {each} of {length:,} tokens "
            f"of a sequence{parts}"
        )

    @property
    def has_weights(self) -> bool:
        """Routers."""
        return True

    def check_made(self, args: argparse.Namespace, before: Any, step: int) -> None:
        """Routers of the other model can be this one's; which of them are is said as it is loaded.

        Raises:
            UserError: they go by another rule.
        """
        self._is_made = True
        if before is None:
            self._since = step
            return
        self._since = int(before.get("since_step", 0))
        self._check_rule(f"the checkpoint in {args.load}", before)

    def check_weights(self, args: argparse.Namespace, before: Any) -> None:
        """Routers are where they were, with predictors or without.

        Raises:
            UserError: they are not.
        """
        start = f"the checkpoint in {args.load or args.pretrained_checkpoint}"
        if before is None:
            raise UserError(
                f"{start} has no routers, as it was trained without --mod-capacity: start with it "
                "from the beginning, or leave it out"
            )
        now = self.saved()
        ours, theirs = (
            ", ".join(str(block) for block, _ in told["blocks"]) for told in (now, before)
        )
        if ours != theirs:
            raise UserError(
                f"{start} has routers in blocks {theirs} and this run in {ours}: name them with "
                "--mod-layers"
            )
        self._check_rule(start, before)

    def _check_rule(self, start: str, before: Any) -> None:
        now = self.saved()
        if any(now[name] != before[name] for name in ("sampling", "choice")):
            told = " and ".join(f"--mod-{name} {before[name]}" for name in ("sampling", "choice"))
            raise UserError(
                f"{start} was trained with {told}, and its routers have parameters for that alone: "
                "give the same"
            )

    def resume(self, args: argparse.Namespace, before: Any, step: int) -> None:
        """It is made of another, or the same run: of the same capacities, parts and warm-up."""
        if self._is_made:
            return
        self._since = int(before.get("since_step", 0))
        now = self.saved()
        differ = [name for name in now if before.get(name) != now[name]]
        if differ:
            raise UserError(
                f"the checkpoint in {args.load} was trained with "
                f"{', '.join(_told(name, before.get(name)) for name in differ)} and this run has "
                f"{', '.join(_told(name, now[name]) for name in differ)}: give the same"
            )

    def configure_model(self, config: Any) -> Any:
        """Every model chunk that Megatron builds has its blocks routed, before it is wrapped."""
        from tst_megatron.methods.depths.model import route_all

        transformer = config.transformer
        # Routed and other blocks have other parameters, which cannot be stacked in a checkpoint.
        transformer.hetereogenous_dist_checkpoint = True
        config.pre_wrap_hooks.append(
            partial(route_all, routing=self.routing, now=self.now, seed=int(self._args.seed))
        )
        return config

    def batch(self, wanted: MicroBatch, ordinary: Callable[[], Any]) -> Any:
        """Megatron's; blocks are told how to choose."""
        self.now.ranks_in_validation = wanted.stage.loss == RANKED_LOSS
        return ordinary()

    def flops(self, args: argparse.Namespace, samples: int, ordinary: float) -> float:
        """Of the tokens that blocks take."""
        from tst_megatron.methods.depths.operations import of_routed
        from tst_megatron.methods.depths.sizes import parameters_of

        routing, least = self.routing, self.now.most
        tokens = {
            block: routing.tokens(max(share, least), int(args.seq_length), ranks_of(args))
            for block, share in routing.blocks.items()
        }
        numbers = parameters_of(int(args.hidden_size), routing.has_predictor)
        return of_routed(args, samples, ordinary, tokens, sum(numbers.values()))

    def shares_at_work(self, chunk: Any) -> Mapping[str, float]:
        """Of routed blocks but their routers, which see every token."""
        from tst_megatron.methods.depths.model import shares_at_work

        return shares_at_work(chunk)

    def evaluations(self, stage: Stage) -> Sequence[Evaluation]:
        """The next-token loss by rank, as it is trained; a model can be used by its rule alone.

        Of the same samples, or the two could not be held against one another.
        """
        if self.routing.choice == "random" or not self._args.fixed_validation:
            return ()
        return (Evaluation(RANKED_LOSS, Stage(ORDINARY, 0, loss=RANKED_LOSS, method=self.name), 1),)

    def listeners(self, args: argparse.Namespace) -> Sequence[Listener]:
        """Figures and thresholds."""
        from tst_megatron.methods.depths.figures import DepthListener

        return (DepthListener(self.routing, self.now),)


def _told(name: str, value: Any) -> str:
    """A setting that a checkpoint remembers, by its flag."""
    if name == "blocks":
        shares = [f"{share:g} in block {block}" for block, share in value or ()]
        return f"--mod-capacity {', '.join(shares)}"
    return f"--mod-{name.replace('_', '-')} {value}"
