"""The tiny recipe as the checks' runs have it: short, and with every step in the ledger."""

from collections.abc import Sequence

from tests.gpu.machine import Machine
from tests.gpu.text import small_text
from tst_megatron import recipes
from tst_megatron.demo import BASELINE
from tst_megatron.experiments.words import of_length

OURS = ("--fixed-validation", "--tst-")
"""What flags of ours begin with, which Megatron's own program does not know."""


def tiny_flags(
    machine: Machine, steps: int, recipe: str = BASELINE, leave_out: Sequence[str] = ()
) -> tuple[str, ...]:
    """Flags of the tiny baseline, or of another recipe of its size.

    Args:
        machine: has the text.
        steps: of the run; two validations, and no checkpoint unless it is asked for.
        recipe: its name.
        leave_out: names of flags, without dashes, that the run has otherwise.
    """
    values = {name: value for name, value in recipes.load(recipe).items() if name not in leave_out}
    return (
        *recipes.flags(values),
        *small_text(machine).flags,
        *of_length(steps, warmup=max(1, steps // 10), steps_a_validation=steps // 2, checkpoints=1),
        *("--eval-iters=4", "--log-interval=1", "--tensorboard-log-interval=1"),
        # Of the 32 samples of an evaluation, so that up to eight ranks share them.
        "--eval-micro-batch-size=4",
    )
