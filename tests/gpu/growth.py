"""A small model grown on a GPU: silent layers add nothing, and stacked ones train on."""

import math
from collections.abc import Iterator

from ledgers import last_evaluated
from trainer import Job

from tests.gpu.figures import Figure, Note
from tests.gpu.jobs import run_all
from tests.gpu.machine import Machine
from tests.gpu.tiny import tiny_flags
from tst_megatron import recipes
from tst_megatron.demo import BASELINE

STEPS, CUT = 16, 6


def growth(machine: Machine) -> Iterator[Figure | Note]:
    """The held-out loss before and after the growth, and whether the grown run learns."""
    root = machine.folder / "growth"
    small = int(recipes.load(BASELINE)["num-layers"])
    common = (*tiny_flags(machine, STEPS), *machine.te_flags, "--fixed-validation")
    kept = root / "small" / "kept"
    ends = (f"--exit-interval={CUT}", f"--save-interval={CUT}", f"--eval-interval={CUT}")
    (before,) = run_all(machine, [Job(root / "small", (*common, f"--save={kept}", *ends))])
    larger = (*common, f"--num-layers={2 * small}", f"--load={kept}")
    # A run that ends where its checkpoint does evaluates what was loaded.
    at_once = (f"--train-iters={CUT}", "--override-opt_param-scheduler")
    jobs = [
        Job(root / "zero", (*larger, "--grow=zero", *at_once)),
        Job(root / "stack", (*larger, "--grow=stack")),
    ]
    zero, stack = run_all(machine, jobs)
    losses = [last_evaluated(result.ledger_file, CUT) for result in (before, zero)]
    losses.append(float(stack.ledger.validations[-1]["next_token_loss"]))
    apart = abs(losses[1] - losses[0])
    yield Figure("silent layers: the held-out loss, difference", apart, "nats", 0)
    steps = [line["step"] for line in stack.ledger.steps]
    whole = steps == list(range(1, STEPS + 1))
    yield Figure("stacked: one ledger of all steps", whole, "", 1, at_most=False)
    gained = losses[0] - losses[2] if math.isfinite(losses[2]) else -math.inf
    yield Figure("stacked: the held-out loss fell by", gained, "nats", 0, at_most=False)
