"""``--inprocess-restart`` is refused, on GPUs too, until its ranks are numbered here as it does."""

from collections.abc import Iterator

from trainer import Job

from tests.gpu.figures import Figure, Note
from tests.gpu.jobs import reason, run_all
from tests.gpu.machine import Machine
from tests.gpu.tiny import tiny_flags

FLAG = "--inprocess-restart"
_LIFTING = (
    f"what lifting the refusal of {FLAG} needs: RANK and WORLD_SIZE read at every start inside the "
    "process, the flags parsed, validated and set again with them, the first time with those of "
    "--inprocess-active-world-size; and a run on three GPUs, one in reserve, that goes on after a "
    "killed rank"
)


def restart(machine: Machine) -> Iterator[Figure | Note]:
    """One sentence, and no step."""
    flags = (*tiny_flags(machine, 4), *machine.local_flags, FLAG)
    (result,) = run_all(machine, [Job(machine.folder / "run", flags)], check=False)
    said = reason(result.output)
    yield Figure(f"{FLAG}: refused in a sentence", said.startswith(FLAG), "", 1, False)
    yield Figure(f"{FLAG}: exit code", result.code, "", 1, False)
    yield Figure(f"{FLAG}: ledgers that were begun", result.ledger_file.exists(), "", 0)
    yield Note(said)
    yield Note(_LIFTING)
