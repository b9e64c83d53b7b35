"""The ledger's seconds against events of the GPU around every step."""

from collections.abc import Iterator
from typing import Any

from tests.gpu.figures import Figure, Note
from tests.gpu.jobs import run_all, watched_job, watched_steps
from tests.gpu.machine import Machine
from tests.gpu.tiny import tiny_flags
from tst_megatron.runs.ledger import Ledger

_WARM = 10
_WITHIN = 0.05


def clocks(machine: Machine) -> Iterator[Figure | Note]:
    """Seconds of steps after the first ten, in either phase, as shares of the events'."""
    steps = machine.sized(100, 24)
    job = watched_job(
        machine.folder / "run",
        (
            *tiny_flags(machine, steps),
            *machine.sized(_AS_LONG_AS_SHOWS, ()),
            *machine.te_flags,
            *("--tst-bag-size=4", "--tst-step-ratio=0.5", "--allow-repeats"),
        ),
    )
    (result,) = run_all(machine, [job], share=1)
    seen = watched_steps(job)
    timed = timed_steps(result.ledger)
    for stage, what in ((0, "in bags"), (1, "after the switch")):
        lines = [line for line in timed if line["stage"] == stage]
        events = sum(seen[line["step"] - 1]["ms"] for line in lines) / 1e3
        ledgers = sum(line["compute_s"] + line["data_wait_s"] for line in lines)
        yield Figure(f"{what}: events, a step", 1e3 * events / len(lines), "ms")
        off = abs(ledgers - events) / events
        yield Figure(
            f"{what}: the ledger's seconds, from the events'", off, "", machine.timed(_WITHIN)
        )
    if machine.dry_run:
        yield Note("left to a GPU: events; both are the clock here")


def timed_steps(ledger: Ledger) -> list[dict[str, Any]]:
    """Those after the first, whose seconds are theirs alone.

    What a validation waits for its data is in ``data_wait_s`` too, of the line of the next step.
    """
    after_others = {line["step"] + 1 for line in ledger.validations}
    return [line for line in ledger.steps[_WARM:] if line["step"] not in after_others]


# Steps of some tens of milliseconds: a shorter one is the host's, not the GPU's.
_AS_LONG_AS_SHOWS = (
    *("--num-layers=8", "--hidden-size=1024", "--ffn-hidden-size=2816", "--num-attention-heads=16"),
    *("--seq-length=1024", "--max-position-embeddings=1024", "--micro-batch-size=8"),
    *("--global-batch-size=8", "--eval-micro-batch-size=8", "--eval-global-batch-size=8"),
)
