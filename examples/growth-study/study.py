"""What growth is worth at equal FLOPs: real runs against two controls, each at its own rate.

    python examples/growth-study/study.py --out runs/growth-study

A small model is trained once a seed, and all growths of that seed start from its checkpoints;
trained on to the end it is one control, and the large model from scratch is the other. Every run
has the same FLOPs in all, the small model's among them. It can be cut off at any point: the same
command goes on. A run whose compressed ledger lies in ``--ledgers`` is not trained again;
``--list`` says what there is to do and about how long it takes, and trains nothing.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from tst_megatron import recipes
from tst_megatron.corpora import small_corpora
from tst_megatron.errors import user_errors_exit
from tst_megatron.experiments import study as experiments
from tst_megatron.experiments.cells import Cell, Start
from tst_megatron.experiments.text import PreparedText
from tst_megatron.experiments.tuning import rates_to_try

VOCAB_SIZE = 384
BUDGET = 4.1e13
"""FLOPs of a run in all, as the ledger counts them; a run comes nearest in whole steps."""
SEEDS = (1, 2, 3)
# Rates are chosen with a seed and a length that no figure is taken of.
RATE_SEED, RATE_LENGTH = 4, 0.5
BAG_SIZE = 4

_HIDDEN, _FFN, _SEQUENCE, _BATCH = 128, 384, 128, 4
_POSITIONS = _SEQUENCE * _BATCH
_TOP_K = 2
_WARMUP = 200
_DECAY = 0.1  # Of the budget, in FLOPs of the model that a run ends with.
# A small model's checkpoints are a twentieth of its budget apart, so that each share has one.
_PARTS = 20
_CHECKPOINTS = 5
_EVAL_SEQUENCES = 2_048
_LOG_INTERVAL = 25
# Of a step on one core, as measured on models of 0.05 to 3.6 M parameters; of the rest, about.
_STEP_S, _PARAMETER_S = 8e-3, 52e-9
_START_S, _STEPS_OF_EVALUATION = 20.0, 170


@dataclass(frozen=True)
class Model:
    """A model 128 wide: what else recipe ``tiny`` has.

    Attributes:
        name: of it.
        num_layers: of it.
        num_experts: of each layer, of the dense layer's size; 0 of a dense one.
        highest_rate: the highest of the four rates that are tried first, each half the one before.
    """

    name: str
    num_layers: int
    num_experts: int = 0
    highest_rate: float = 2e-3

    @property
    def parameters(self) -> int:
        """All of them, those of experts that rest among them."""
        mlps, router = max(1, self.num_experts), _HIDDEN * self.num_experts
        layer = 4 * _HIDDEN**2 + mlps * 3 * _HIDDEN * _FFN + 2 * _HIDDEN + router
        return self.num_layers * layer + 2 * VOCAB_SIZE * _HIDDEN + _HIDDEN

    @property
    def flops_a_step(self) -> int:
        """As Megatron counts them, and so the ledger (``num_floating_point_operations``)."""
        mlps = _TOP_K if self.num_experts else 1
        layer = 4 * _HIDDEN**2 + mlps * 3 * _HIDDEN * _FFN + _SEQUENCE * _HIDDEN
        return 6 * _POSITIONS * (self.num_layers * layer + _HIDDEN * VOCAB_SIZE)

    def steps(self, flops: float) -> int:
        """That come nearest to FLOPs."""
        return round(flops / self.flops_a_step)

    @property
    def flags(self) -> tuple[str, ...]:
        """Megatron's."""
        dense = (f"--num-layers={self.num_layers}",)
        if not self.num_experts:
            return dense
        return (
            *dense,
            f"--num-experts={self.num_experts}",
            f"--moe-router-topk={_TOP_K}",
            f"--moe-ffn-hidden-size={_FFN}",
            "--moe-router-load-balancing-type=aux_loss",
            "--moe-aux-loss-coeff=1e-2",
            "--moe-token-dispatcher-type=alltoall",
        )

    def hours(self, steps: int) -> float:
        """About, of a run on one core."""
        a_step = _STEP_S + _PARAMETER_S * self.parameters
        return (_START_S + a_step * (steps + _STEPS_OF_EVALUATION)) / 3600


SMALL, LARGE = Model("2L", 2), Model("8L", 8)
DENSE, EXPERTS = Model("4L", 4), Model("4L-8x", 4, 8)


@dataclass(frozen=True)
class Change:
    """How a model becomes another one.

    Attributes:
        name: of it.
        before: the model that it starts from.
        after: the one that it makes.
        flags: that ask for it.
        flag: which names the folder of the checkpoint, without its dashes.
    """

    name: str
    before: Model
    after: Model
    flags: tuple[str, ...] = ()
    flag: str = "load"


STACK = Change("stack", SMALL, LARGE, ("--grow=stack",))
ZERO = Change("zero", SMALL, LARGE, ("--grow=zero",))
STACK_NEW = Change("stack-new", SMALL, LARGE, ("--grow=stack", "--grow-optimizer=new"))
UPCYCLE = Change("upcycle", DENSE, EXPERTS, flag="upcycle-from")
DROP = Change("drop0.5", DENSE, EXPERTS, ("--upcycle-drop=0.5",), flag="upcycle-from")


@dataclass(frozen=True)
class Run:
    """One run of the study.

    Attributes:
        part: its group, such as ``control`` or ``stack``.
        model: that it ends with.
        seed: of it.
        rate: its highest learning rate; before a change where `rate_after` says otherwise.
        length: FLOPs in all over the budget.
        change: how its model came about; None of one trained from scratch.
        at: share of the budget in FLOPs before the change.
        bags: share of the budget in FLOPs in which it reads bags.
        rate_after: after the change, where it is not the one before.
        only_before: it is what comes before the change, and ends there: of a run whose phases are
            its own, so that it cannot begin with the control's checkpoint.
    """

    part: str
    model: Model
    seed: int
    rate: float
    length: float = 1.0
    change: Change | None = None
    at: float = 0.0
    bags: float = 0.0
    rate_after: float | None = None
    only_before: bool = False

    @property
    def name(self) -> str:
        """Of its folder and of its ledger."""
        words = [self.part, self.model.name]
        if self.part == "rate":
            words.append(f"lr{self.rate:.3g}")
        if self.change is not None:
            words.append(f"at{100 * self.at:g}")
        if self.bags:
            words.append(f"bags{100 * self.bags:g}")
        if self.rate_after is not None:
            words.append("own-rate")
        if self.only_before:
            words.append("before")
        if self.length != 1:
            words.append(f"x{self.length:g}")
        return "-".join([*words, f"seed{self.seed}"])

    @property
    def first(self) -> int:
        """Steps before the change."""
        return 0 if self.change is None else _shared_steps(self.change.before, self.at)

    @property
    def steps(self) -> int:
        """Of all of it, those before the change among them."""
        if self.change is not None:
            spent = self.first * self.change.before.flops_a_step
            return self.first + self.model.steps(self.length * BUDGET - spent)
        if self.model in (SMALL, DENSE):
            return _shared_steps(self.model, self.length)
        return self.model.steps(self.length * BUDGET)

    @property
    def flops(self) -> float:
        """Of all of it."""
        before = self.change.before.flops_a_step if self.change else 0
        return self.first * before + (self.steps - self.first) * self.model.flops_a_step

    @property
    def bag_steps(self) -> int:
        """In which it reads bags."""
        if self.change is None or self.bags <= self.at:
            model = self.change.before if self.change else self.model
            return _shared_steps(model, self.bags)
        return self.first + self.model.steps((self.bags - self.at) * BUDGET)

    @property
    def hours(self) -> float:
        """About, on one core, without what it starts from."""
        if self.only_before:
            assert self.change is not None
            return self.change.before.hours(self.first)
        return self.model.hours(self.steps - self.first)

    @property
    def before(self) -> "Run | None":
        """What it starts from: the control, or a part of its own where that reads other bags."""
        change = self.change
        if change is None or self.only_before:
            return None
        if self.bags in _SHARED_BAGS:
            return Run("control", change.before, self.seed, self.rate, bags=self.bags)
        return replace(self, only_before=True)

    def cell(self, root: Path) -> Cell:
        """As it is trained."""
        model, steps, start = self.model, self.steps, None
        own: tuple[str, ...] = ()
        if self.only_before:
            assert self.change is not None
            # It is evaluated where it ends, and saved.
            model, own = self.change.before, (f"--exit-after-step={self.first}",)
            steps = self.first
        elif self.change is not None:
            assert self.before is not None
            start = Start(self.before.cell(root), self.first, self.change.flag)
            own = (*self.change.flags, "--override-opt_param-scheduler")
        if self.bags:
            own += (f"--tst-schedule={BAG_SIZE}:{self.bag_steps}steps",)
        rate = self.rate if start is None or self.rate_after is None else self.rate_after
        flags = (
            *recipes.flags(recipes.load("tiny")),
            *model.flags,
            *PreparedText(root / "data").flags,
            f"--train-iters={self.steps}",
            f"--lr-warmup-iters={_WARMUP}",
            f"--lr-wsd-decay-iters={self.model.steps(_DECAY * self.length * BUDGET)}",
            # At the end alone: one of so many sequences takes the time of 170 steps.
            f"--eval-interval={steps if self.only_before else 2 * steps}",
            f"--save-interval={self._save_interval}",
            f"--eval-iters={_EVAL_SEQUENCES // 32}",
            f"--log-interval={_LOG_INTERVAL}",
            f"--tensorboard-log-interval={_LOG_INTERVAL}",
            f"--lr={rate!r}",
            f"--seed={self.seed}",
            *own,
        )
        return Cell(self.name, flags, steps, start)

    @property
    def _save_interval(self) -> int:
        if self.only_before:
            return max(1, self.first // _CHECKPOINTS)
        is_shared = self.change is None and self.model in (SMALL, DENSE) and self.length == 1
        return max(1, (self.steps - self.first) // (_PARTS if is_shared else _CHECKPOINTS))


_SHARED_BAGS = (0.0, 0.25)
"""Bags of controls, from which growths start that read as many; a longer phase is of no control."""


def _shared_steps(model: Model, share: float) -> int:
    """Of a share of the budget, at one of a small model's checkpoints."""
    return round(share * _PARTS) * round(BUDGET / _PARTS / model.flops_a_step)


class Study(experiments.Study[Run]):
    """Controls, growths, and once they are there experts from dense models."""

    def rate_runs(self, model: Model) -> list[Run]:
        """Those that choose a rate: four, and more where the best is at an edge."""

        def at(rate: float) -> Run:
            return Run("rate", model, RATE_SEED, rate, RATE_LENGTH)

        rates = rates_to_try(model.highest_rate, lambda rate: self.loss(at(rate)))
        return [at(rate) for rate in rates]

    def rate(self, model: Model) -> float | None:
        """The chosen one, of two digits; None while the runs that choose it are not done."""

        def tried() -> dict[float, float | None]:
            return {run.rate: self.loss(run) for run in self.rate_runs(model)}

        return self.rates.rate(model.name, tried)

    def runs(self) -> list[Run]:
        """All that can be told of now, in their order: what needs a rate comes once that is there.

        What answers most comes first, so that an early end leaves an answer with fewer seeds.
        """
        found = [
            *self._growth(),
            *self._upcycling(),
            *self._growth_with_bags(),
            *self._upcycling_with_bags(),
            *self._growth_otherwise(),
        ]
        # Before a run that part of it which is its own.
        return [
            one
            for run in found
            for one in (run.before, run)
            if one is not None and (one is run or one.only_before)
        ]

    def growth(self) -> Iterator[Run]:
        """Small and large models, and small ones that grow: all runs of it."""
        yield from self._growth()
        yield from self._growth_with_bags()
        yield from self._growth_otherwise()

    def upcycling(self) -> Iterator[Run]:
        """Dense models and experts, and dense ones that become experts: likewise."""
        yield from self._upcycling()
        yield from self._upcycling_with_bags()

    def _growth(self) -> Iterator[Run]:
        yield from self._choosing(SMALL, LARGE)
        for seed in SEEDS:
            yield from self._controls((SMALL, LARGE), seed)
            yield from self._changed(STACK, (0.25, 0.5), seed)
        # By seed, since all of one seed starts from the same run: one checkpoint folder at a time.
        for seed in reversed(SEEDS):
            yield from self._changed(ZERO, (0.25, 0.5), seed)
            yield from self._changed(STACK, (0.1, 0.75), seed)

    def _growth_with_bags(self) -> Iterator[Run]:
        """Both controls with bags, and growth where they end, after it, and at a later one."""
        for seed in SEEDS:
            yield from self._controls((SMALL, LARGE), seed, bags=0.25)
            yield from self._changed(STACK, (0.25,), seed, bags=0.25)
            yield from self._changed(STACK, (0.25, 0.5), seed, bags=0.5)

    def _growth_otherwise(self) -> Iterator[Run]:
        """What might have decided it: the rate after the growth, the moments, the length."""
        for seed in reversed(SEEDS):
            yield from self._changed(STACK, (0.25, 0.5), seed, own_rate=True)
            yield from self._changed(STACK_NEW, (0.25,), seed)
        # Without other lengths no equal loss of whole runs is measured.
        for length in (0.5, 2.0):
            yield from self._controls((SMALL, LARGE), SEEDS[0], length)

    def _upcycling(self) -> Iterator[Run]:
        yield from self._choosing(DENSE, EXPERTS)
        for seed in SEEDS:
            yield from self._controls((DENSE, EXPERTS), seed)
            yield from self._changed(UPCYCLE, (0.25, 0.5), seed)
        for seed in SEEDS:
            yield from self._changed(DROP, (0.25,), seed)

    def _upcycling_with_bags(self) -> Iterator[Run]:
        """Both controls with bags, and experts from the dense one where they end."""
        for seed in SEEDS:
            yield from self._controls((DENSE, EXPERTS), seed, bags=0.25)
            yield from self._changed(UPCYCLE, (0.25,), seed, bags=0.25)

    def _choosing(self, *models: Model) -> Iterator[Run]:
        for model in models:
            yield from self.rate_runs(model)

    def _controls(
        self, models: Sequence[Model], seed: int, length: float = 1.0, bags: float = 0.0
    ) -> Iterator[Run]:
        for model in models:
            if (rate := self.rate(model)) is not None:
                yield Run("control", model, seed, rate, length, bags=bags)

    def _changed(
        self,
        change: Change,
        shares: Sequence[float],
        seed: int,
        bags: float = 0.0,
        own_rate: bool = False,
    ) -> Iterator[Run]:
        """One learning rate through the whole chain, the small model's, or the large one's own
        from the change on.
        """
        rate, other = self.rate(change.before), self.rate(change.after)
        if rate is None or other is None or (own_rate and rate == other):
            return
        after = other if own_rate else None
        for at in shares:
            run = Run(change.name, change.after, seed, rate, 1.0, change, at, bags, after)
            yield run


def prepare(root: Path, console: Console) -> None:
    """Make the text ready, where it is not."""
    PreparedText(root / "data").make(small_corpora.environment_files(), VOCAB_SIZE, console)


if __name__ == "__main__":
    with user_errors_exit():
        sys.exit(experiments.run_study(__doc__, Path("runs/growth-study"), Study, prepare))
