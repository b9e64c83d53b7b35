"""What blocks in depths are worth at equal FLOPs: real runs, each at its own rate, and the controls
that would embarrass them.

    python examples/depths-study/study.py --out runs/depths-study

Every run has the same FLOPs. A routed model stands beside plain ones of several sizes, beside
itself without its routed blocks, and beside itself with tokens that chance picks. It can be cut off
at any point: the same command goes on. A run whose compressed ledger lies in ``--ledgers`` is not
trained again; ``--list`` says what there is to do and about how long it takes, and trains nothing.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from tst_megatron import recipes
from tst_megatron.corpora import small_corpora
from tst_megatron.errors import user_errors_exit
from tst_megatron.experiments import study as experiments
from tst_megatron.experiments.cells import Cell
from tst_megatron.experiments.text import PreparedText
from tst_megatron.experiments.tuning import rates_to_try

VOCAB_SIZE = 384
BUDGET = 1e13
"""FLOPs of a run, as the ledger counts them; a run comes nearest in whole steps."""
SEEDS = (1, 2, 3)
# Rates are chosen with a seed and a length that no figure is taken of.
RATE_SEED, RATE_LENGTH = 4, 0.5
BAG_SIZE, BAG_SHARE = 4, 0.25

_HIDDEN, _FFN, _SEQUENCE, _BATCH = 128, 384, 128, 4
_POSITIONS = _SEQUENCE * _BATCH
_NUM_EXPERTS, _TOP_K = 8, 2
_PREDICTOR = _HIDDEN // 4 * (_HIDDEN + 1)
_WARMUP, _DECAY = 200, 0.1
_HIGHEST_RATE = 2e-3
_CHECKPOINTS = 5
_EVAL_SEQUENCES = 2_048
_LOG_INTERVAL = 25
# Of a step on one core, as measured on models of 0.05 to 3.6 M parameters; of the rest, about.
_STEP_S, _PARAMETER_S = 8e-3, 52e-9
_START_S, _STEPS_OF_EVALUATION = 20.0, 340  # Twice: by the rule and by rank.


@dataclass(frozen=True)
class Model:
    """A model 128 wide: what else recipe ``tiny`` has.

    Attributes:
        num_layers: of it.
        capacity: share of the tokens in every other block; 1 of a plain model.
        sampling: how a token is let in without a look ahead.
        by_chance: chance picks the tokens.
        has_experts: eight a layer, of half the dense layer's size, of which two work on a token.
    """

    num_layers: int
    capacity: float = 1.0
    sampling: str = "predictor"
    by_chance: bool = False
    has_experts: bool = False

    @property
    def is_routed(self) -> bool:
        """Whether it has routed blocks."""
        return self.capacity < 1

    @property
    def name(self) -> str:
        """Such as ``8L-12.5-random``."""
        words = [f"{self.num_layers}L"]
        if self.has_experts:
            words.append(f"{_NUM_EXPERTS}x")
        if self.is_routed:
            words.append(f"{100 * self.capacity:g}")
            if self.by_chance:
                words.append("random")
            elif self.sampling != "predictor":
                words.append(self.sampling)
        return "-".join(words)

    @property
    def without_routed(self) -> "Model":
        """What is left where the routed blocks are deleted."""
        return Model(self.num_layers // 2, has_experts=self.has_experts)

    @property
    def tuned_as(self) -> "Model":
        """The model whose rate it has: other rules have the predictor's."""
        return replace(self, sampling="predictor")

    @property
    def parameters(self) -> int:
        """All of them, those of experts that rest among them."""
        mlps = _NUM_EXPERTS / 2 if self.has_experts else 1
        layer = 4 * _HIDDEN**2 + int(mlps * 3 * _HIDDEN * _FFN) + 2 * _HIDDEN
        return self.num_layers * layer + 2 * VOCAB_SIZE * _HIDDEN + _HIDDEN

    @property
    def flops_a_step(self) -> int:
        """As the ledger counts them: experts of half the size, two of them, cost a dense layer."""
        weights, pairs = 4 * _HIDDEN**2 + 3 * _HIDDEN * _FFN, _SEQUENCE * _HIDDEN
        routed = self.num_layers // 2 if self.is_routed else 0
        layers = (self.num_layers - routed) * (weights + pairs)
        router = _HIDDEN
        if not self.by_chance and self.sampling == "predictor":
            router += _PREDICTOR
        share = self.capacity
        layers += round(routed * (share * weights + share**2 * pairs + router))
        return 6 * _POSITIONS * (layers + _HIDDEN * VOCAB_SIZE)

    def steps(self, flops: float) -> int:
        """That come nearest to FLOPs."""
        return round(flops / self.flops_a_step)

    @property
    def flags(self) -> tuple[str, ...]:
        """Megatron's and ours."""
        found = [f"--num-layers={self.num_layers}"]
        if self.has_experts:
            found += [
                f"--num-experts={_NUM_EXPERTS}",
                f"--moe-router-topk={_TOP_K}",
                f"--moe-ffn-hidden-size={_FFN // 2}",
                "--moe-router-load-balancing-type=aux_loss",
                "--moe-aux-loss-coeff=1e-2",
                "--moe-token-dispatcher-type=alltoall",
            ]
        if self.is_routed:
            found.append(f"--mod-capacity={self.capacity:g}")
            if self.by_chance:
                found.append("--mod-choice=random")
            elif self.sampling != "predictor":
                found.append(f"--mod-sampling={self.sampling}")
        return tuple(found)

    def hours(self, steps: int) -> float:
        """About, of a run on one core."""
        a_step = _STEP_S + _PARAMETER_S * self.parameters
        return (_START_S + a_step * (steps + _STEPS_OF_EVALUATION)) / 3600


PLAIN = tuple(Model(layers) for layers in (2, 4, 8))
EIGHTH = tuple(Model(layers, 0.125) for layers in (4, 8))
HALF = tuple(Model(layers, 0.5) for layers in (4, 8))
EXPERTS, ROUTED_EXPERTS = Model(2, has_experts=True), Model(4, 0.125, has_experts=True)


@dataclass(frozen=True)
class Run:
    """One run of the study.

    Attributes:
        part: ``rate``, or the first question that it is of; what is equal but for it is one run.
        model: of it.
        seed: of it.
        rate: its highest learning rate.
        length: its FLOPs over the budget.
        bags: share of its steps in which it reads bags.
    """

    part: str = field(compare=False)
    model: Model
    seed: int
    rate: float
    length: float = 1.0
    bags: float = 0.0

    @property
    def name(self) -> str:
        """Of its folder and of its ledger: the same run is of several questions."""
        words = ["rate"] if self.part == "rate" else []
        words.append(self.model.name)
        if self.part == "rate":
            words.append(f"lr{self.rate:.3g}")
        if self.bags:
            words.append(f"bags{100 * self.bags:g}")
        return "-".join([*words, f"seed{self.seed}"])

    @property
    def steps(self) -> int:
        """Of it."""
        return self.model.steps(self.length * BUDGET)

    @property
    def hours(self) -> float:
        """About, on one core."""
        return self.model.hours(self.steps)

    def cell(self, root: Path) -> Cell:
        """As it is trained."""
        steps = self.steps
        own: tuple[str, ...] = ()
        if self.bags:
            own = (f"--tst-schedule={BAG_SIZE}:{round(self.bags * steps)}steps",)
        flags = (
            *recipes.flags(recipes.load("tiny")),
            *self.model.flags,
            *PreparedText(root / "data").flags,
            f"--train-iters={steps}",
            f"--lr-warmup-iters={_WARMUP}",
            f"--lr-wsd-decay-iters={round(_DECAY * steps)}",
            # At the end alone: one of so many sequences takes the time of 170 steps.
            f"--eval-interval={2 * steps}",
            f"--save-interval={max(1, steps // _CHECKPOINTS)}",
            f"--eval-iters={_EVAL_SEQUENCES // 32}",
            f"--log-interval={_LOG_INTERVAL}",
            f"--tensorboard-log-interval={_LOG_INTERVAL}",
            f"--lr={self.rate!r}",
            f"--seed={self.seed}",
            *own,
        )
        return Cell(self.name, flags, steps, None)


class Study(experiments.Study[Run]):
    """Plain models of several sizes, routed ones, and the controls of these."""

    def rate_runs(self, model: Model) -> list[Run]:
        """Those that choose a rate: four, and more where the best is at an edge."""

        def at(rate: float) -> Run:
            return Run("rate", model, RATE_SEED, rate, RATE_LENGTH)

        rates = rates_to_try(_HIGHEST_RATE, lambda rate: self.loss(at(rate)))
        return [at(rate) for rate in rates]

    def rate(self, model: Model) -> float | None:
        """The chosen one, of two digits; None while the runs that choose it are not done."""
        tuned = model.tuned_as

        def tried() -> dict[float, float | None]:
            return {run.rate: self.loss(run) for run in self.rate_runs(tuned)}

        return self.rates.rate(tuned.name, tried)

    def runs(self) -> list[Run]:
        """All that can be told of now, in their order.

        What answers most comes first, so that an early end leaves an answer with fewer seeds.
        """
        eighth, half = EIGHTH[-1], HALF[-1]
        found: list[Run] = []
        found += self._question("sizes", (PLAIN[1], eighth, replace(eighth, by_chance=True)))
        found += self._question("sizes", (*PLAIN, *EIGHTH))
        found += self._question("half", (*HALF, replace(half, by_chance=True)))
        rules = ("auxiliary", "threshold")
        found += self._question("rules", tuple(replace(eighth, sampling=one) for one in rules))
        found += self._question("bags", (PLAIN[1], eighth), BAG_SHARE)
        chance = replace(ROUTED_EXPERTS, by_chance=True)
        found += self._question("experts", (EXPERTS, ROUTED_EXPERTS, chance))
        return list(dict.fromkeys(found))

    def _question(self, part: str, models: tuple[Model, ...], bags: float = 0.0) -> Iterator[Run]:
        for model in models:
            yield from self.rate_runs(model.tuned_as)
        for seed in SEEDS:
            for model in models:
                if (rate := self.rate(model)) is not None:
                    yield Run(part, model, seed, rate, bags=bags)


def prepare(root: Path, console: Console) -> None:
    """Make the text ready, where it is not."""
    PreparedText(root / "data").make(small_corpora.environment_files(), VOCAB_SIZE, console)


if __name__ == "__main__":
    with user_errors_exit():
        sys.exit(experiments.run_study(__doc__, Path("runs/depths-study"), Study, prepare))
