"""A dense model's MLPs as experts on a GPU: the loss goes on at its digits, and they train on."""

import math
from collections.abc import Iterator

from trainer import Job

from tests.gpu.figures import Figure, Note
from tests.gpu.jobs import run_all
from tests.gpu.machine import Machine
from tests.gpu.tiny import tiny_flags
from tst_megatron import recipes
from tst_megatron.demo import BASELINE

STEPS, CUT = 16, 6
# Of sums of the same numbers in another order, in bf16: what a loss near 5 may be off by.
_ROUNDED = 5 * 2**-8


def upcycling(machine: Machine) -> Iterator[Figure | Note]:
    """The held-out loss before and after, and whether the experts learn."""
    root = machine.folder / "upcycling"
    units = int(recipes.load(BASELINE)["ffn-hidden-size"])
    common = (*tiny_flags(machine, STEPS), *machine.te_flags, "--fixed-validation")
    kept = root / "dense" / "kept"
    ends = (f"--exit-interval={CUT}", f"--save-interval={CUT}", f"--eval-interval={CUT}")
    (before,) = run_all(machine, [Job(root / "dense", (*common, f"--save={kept}", *ends))])
    routed = (
        *("--moe-token-dispatcher-type=alltoall", "--moe-router-load-balancing-type=none"),
        *("--moe-router-dtype=fp32", f"--upcycle-from={kept}"),
    )
    whole = (*routed, "--num-experts=4", "--moe-router-topk=2", f"--moe-ffn-hidden-size={units}")
    halves = (
        *(*routed, "--num-experts=8", "--moe-router-topk=4"),
        f"--moe-ffn-hidden-size={units // 2}",
    )
    # A run that ends where its checkpoint does evaluates what was loaded.
    at_once = (f"--train-iters={CUT}", "--override-opt_param-scheduler")
    jobs = [
        Job(root / "whole", (*common, *whole, *at_once)),
        Job(root / "halves", (*common, *halves, *at_once)),
        Job(root / "trained", (*common, *whole)),
    ]
    results = run_all(machine, jobs)
    losses = [
        float(result.ledger.validations[-1]["next_token_loss"]) for result in (before, *results)
    ]
    for name, loss in (("whole MLPs", losses[1]), ("halves of them", losses[2])):
        apart = abs(loss - losses[0])
        yield Figure(f"{name} as experts: the held-out loss, difference", apart, "nats", _ROUNDED)
    steps = [line["step"] for line in results[2].ledger.steps]
    is_whole = steps == list(range(1, STEPS + 1))
    yield Figure("trained on: one ledger of all steps", is_whole, "", 1, at_most=False)
    gained = losses[0] - losses[3] if math.isfinite(losses[3]) else -math.inf
    yield Figure("trained on: the held-out loss fell by", gained, "nats", 0, at_most=False)
