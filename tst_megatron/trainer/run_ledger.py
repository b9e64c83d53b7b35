"""The ledger as a listener: what steps and evaluations put into it.

The one idea: rank 0 writes. What only the last pipeline stage knows goes through the job's
key-value store, a few hundred bytes a logged step, no collective, and the rank that sends never
waits; what a line needs of all ranks (the parameter count) is asked of all before the first line.
"""

import argparse
import json
from collections.abc import Mapping
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import torch
from megatron.core.datasets.object_storage_utils import is_object_storage_path
from torch.distributed import PrefixStore, distributed_c10d

from tst_megatron.corpora.split_text import SplitText
from tst_megatron.methods.events import Evaluated, Listener, LoggedStep, Scored, ValidationSet
from tst_megatron.methods.method import Run
from tst_megatron.methods.registry import methods
from tst_megatron.runs.clock import RunClock
from tst_megatron.runs.ledger_history import bring_along, put_aside_anothers
from tst_megatron.runs.ledger_writer import LedgerWriter
from tst_megatron.runs.stages import NEXT_TOKEN_LOSS
from tst_megatron.trainer.held_out_text import amount_evaluated, text_held_out
from tst_megatron.trainer.ledger_header import header_of
from tst_megatron.trainer.memory import ledger_before
from tst_megatron.trainer.parameter_count import count_parameters
from tst_megatron.trainer.progress import ProgressCounter

_PREFIX = "tst-megatron-ledger"
_STDERR = " stderr"
_BETWEEN = "\n"  # A set's name and a loss's: neither has one.


class RunLedger(Listener):
    """Keeps the ledger of one run; every rank calls it alike.

    Args:
        args: Megatron's validated arguments.
        run: what the run's methods make of it.
        progress: of the run.
        started: when the process started, seconds since the epoch.
    """

    def __init__(
        self, args: argparse.Namespace, run: Run, progress: ProgressCounter, started: float
    ) -> None:
        self.args = args
        self.run = run
        self.progress = progress
        self._process_started = started
        self._path = ledger_path(args)
        self._relay = LossRelay(args)
        self._clock: RunClock | None = None
        self._writer: LedgerWriter | None = None

    def gpu_hours(self) -> float | None:
        """So far, on the first and the last rank; None elsewhere, and without a ledger."""
        if self._clock is None:
            return None
        return self._clock.gpu_hours(self._clock.seconds)

    def started(self, model: list[Any]) -> None:
        """Write the header."""
        if self._path is None:
            return
        if self.args.rank == 0:
            self._find_history(self._path)
        # The last rank finds what the first has made; once in a run.
        torch.distributed.barrier()
        parameters = count_parameters(self.args, self.run, model)
        if self.args.rank in (0, self.args.world_size - 1):
            self._clock = RunClock(self._path, self._process_started, self.args.world_size)
        if self.args.rank == 0 and self._clock is not None:
            header = header_of(
                self.args, self.run, self.progress.started_at, parameters, self._held_out
            )
            interval = self.args.ledger_fsync_interval
            self._writer = LedgerWriter(self._path, header, self._clock, interval)

    def _find_history(self, path: Path) -> None:
        """See to it that what lies at the ledger's place is this run's past."""
        step = self.progress.started_at
        if step == 0:
            prefixes = [method.argument_prefix for method in methods()]
            put_aside_anothers(path, vars(self.args), prefixes)
        elif not path.exists() and self.args.load and not is_object_storage_path(self.args.load):
            bring_along(path, ledger_before(self.args), step)

    def step_logged(self, step: LoggedStep) -> None:
        """A ``step`` line."""
        if self._path is None:
            return
        known = self._relay.pass_on(_losses(step.losses) | step.extras)
        if self._writer is None or known is None:
            return
        progress = step.progress
        objective = self._objective(known)
        losses = set(self._objectives())
        more = step.extras | {name: value for name, value in known.items() if name not in losses}
        line = {
            "step": progress.step,
            "positions": progress.positions,
            "data_tokens": progress.data_tokens,
            "flops": progress.flops,
            "samples": progress.samples,
            "stage": progress.stage_index,
            "facts": dict(progress.stage.facts),
            "loss_name": objective,
            "loss": None if objective is None else known[objective],
            "learning_rate": step.learning_rate,
            "grad_norm": step.grad_norm,
            **step.seconds,
            "extras": more,
        }
        self._writer.write("step", _without_empty(line))

    def _objectives(self) -> tuple[str, ...]:
        """Names of the losses that the run is trained on, the ordinary one first."""
        return tuple(dict.fromkeys((NEXT_TOKEN_LOSS, *(s.loss for s in self.run.stages))))

    def _objective(self, known: Mapping[str, float]) -> str | None:
        return next((name for name in self._objectives() if name in known), None)

    def evaluated(self, evaluated: Evaluated) -> None:
        """A ``validation`` line."""
        if self._path is None:
            return
        found = _measured(evaluated)
        for one in evaluated.sets:
            found |= {_of(one.name, name): value for name, value in _measured(one).items()}
        passed = self._relay.pass_on(found)
        if self._writer is None or passed is None or NEXT_TOKEN_LOSS not in passed:
            return
        progress = evaluated.progress
        line = {
            "step": progress.step,
            "positions": progress.positions,
            "data_tokens": progress.data_tokens,
            "flops": progress.flops,
            **_told({name: value for name, value in passed.items() if _BETWEEN not in name}),
            "facts": evaluated.facts,
            "sets": {
                one.name: _without_empty({**_told(_of_set(passed, one.name)), **one.text})
                for one in evaluated.sets
            },
            **(evaluated.text or self._amount_evaluated),
        }
        self._writer.write("validation", _without_empty(line))

    def scored(self, scored: Scored) -> None:
        """An ``evaluation`` line, of what was found."""
        if self._writer is None or not scored.evaluations:
            return
        progress = scored.progress
        line = {
            "step": progress.step,
            "positions": progress.positions,
            "data_tokens": progress.data_tokens,
            "flops": progress.flops,
            "stage": progress.stage_index,
            "facts": dict(progress.stage.facts),
            "evaluations": scored.evaluations,
        }
        self._writer.write("evaluation", _without_empty(line))

    @cached_property
    def _held_out(self) -> SplitText | None:
        return text_held_out(self.args)

    @cached_property
    def _amount_evaluated(self) -> dict[str, int | None]:
        """Tokens and bytes that the next-token loss is measured on, where they were not counted."""
        return amount_evaluated(self.args, self._held_out)


def _measured(of: Evaluated | ValidationSet) -> dict[str, float]:
    """Losses and their standard errors, as they are passed on."""
    errors = {f"{name}{_STDERR}": error for name, error in of.stderrs.items()}
    return _losses(of.losses) | errors


def _of(set_name: str, name: str) -> str:
    """A name of one set's, as it is passed on."""
    return f"{set_name}{_BETWEEN}{name}"


def _of_set(passed: Mapping[str, float], set_name: str) -> dict[str, float]:
    before = _of(set_name, "")
    return {
        name.removeprefix(before): value
        for name, value in passed.items()
        if name.startswith(before)
    }


def _told(known: Mapping[str, float]) -> dict[str, Any]:
    """What was measured, as a line has it."""
    others = [n for n in known if n != NEXT_TOKEN_LOSS and not n.endswith(_STDERR)]
    return {
        "next_token_loss": known.get(NEXT_TOKEN_LOSS),
        "next_token_loss_stderr": known.get(NEXT_TOKEN_LOSS + _STDERR),
        "losses": {name: known[name] for name in others},
        "stderrs": {name: known.get(name + _STDERR) for name in others},
    }


def _losses(losses: Mapping[str, Any]) -> dict[str, float]:
    """As numbers; waits for the GPU."""
    return {name: float(loss) for name, loss in losses.items()}


def _without_empty(line: dict[str, Any]) -> dict[str, Any]:
    """A line without the tables that hold nothing."""
    return {name: value for name, value in line.items() if value != {}}


def ledger_path(args: argparse.Namespace) -> Path | None:
    """Where the run's ledger is kept: ``--ledger``, or beside its checkpoints."""
    if args.ledger is not None:
        return Path(args.ledger)
    if args.save is None or is_object_storage_path(args.save):
        return None
    return Path(args.save) / "ledger.jsonl"


class LossRelay:
    """Sends from the last rank to rank 0; both call `pass_on` equally often, in the same order.

    Args:
        args: Megatron's validated arguments.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self._sends = args.rank == args.world_size - 1
        self._receives = args.rank == 0
        self._needed = args.pipeline_model_parallel_size > 1
        self._numbers = count()

    def pass_on(self, values: dict[str, float]) -> dict[str, float] | None:
        """This rank's values, or on rank 0 those of the last rank; None on all other ranks.

        Args:
            values: by name; what rank 0 gives is left out where the last rank has the losses.
        """
        if not self._needed:
            return values if self._receives else None
        if not (self._sends or self._receives):
            return None
        store = PrefixStore(_PREFIX, distributed_c10d._get_default_store())
        key = str(next(self._numbers))
        if self._sends:
            store.set(key, json.dumps(values))
            return None
        received: dict[str, float] = json.loads(store.get(key))
        store.delete_key(key)
        return received
