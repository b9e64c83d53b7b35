"""What the trainer's steps and evaluations put into the run's ledger.

The one idea: rank 0 writes. What only the last pipeline stage knows is passed on to it, and what a
line needs of all ranks (the parameter count) is asked of all of them before the first line.
"""

import argparse
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from megatron.core.datasets.object_storage_utils import is_object_storage_path

from tst_megatron.methods.superposition.arguments import Superposition
from tst_megatron.methods.superposition.switch_rule import Decision
from tst_megatron.runs.clock import RunClock
from tst_megatron.runs.ledger_history import bring_along, put_aside_anothers
from tst_megatron.runs.ledger_writer import LedgerWriter
from tst_megatron.trainer.consumed import Progress, ProgressAt
from tst_megatron.trainer.forward_step import BAG_LOSS, NEXT_TOKEN_LOSS
from tst_megatron.trainer.ledger_header import header_of, held_out_text
from tst_megatron.trainer.loss_relay import LossRelay
from tst_megatron.trainer.parameter_count import count_parameters

_OBJECTIVES = (NEXT_TOKEN_LOSS, BAG_LOSS)
_STDERR = " stderr"


class RunLedger:
    """Keeps the ledger of one run; every rank calls it alike.

    Args:
        args: Megatron's validated arguments.
        superposition: how the run superposes; None for an ordinary run.
        progress: of the run.
        started: when the process started, seconds since the epoch.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        superposition: Superposition | None,
        progress: Progress,
        started: float,
    ) -> None:
        self.args = args
        self.superposition = superposition
        self.progress = progress
        self.started = started
        self._path = ledger_path(args)
        self._relay = LossRelay(args)
        self._has_started = False
        self._clock: RunClock | None = None
        self._writer: LedgerWriter | None = None

    @property
    def gpu_hours(self) -> float | None:
        """So far, on the first and the last rank; None elsewhere, and without a ledger."""
        if self._clock is None:
            return None
        return self._clock.gpu_hours(self._clock.seconds)

    def start(self, model: list[Any]) -> None:
        """Write the header before the first step or evaluation; later calls do nothing."""
        if self._has_started or self._path is None:
            return
        self._has_started = True
        if self.args.rank == 0:
            self._find_history(self._path)
        # The last rank finds what the first has made; once in a run.
        torch.distributed.barrier()
        parameters = count_parameters(self.args, model)
        if self.args.rank in (0, self.args.world_size - 1):
            self._clock = RunClock(self._path, self.started, self.args.world_size)
        if self.args.rank == 0 and self._clock is not None:
            header = header_of(self.args, self.superposition, self.progress.started_at, parameters)
            self._writer = LedgerWriter(
                self._path,
                header,
                self._clock,
                self.args.ledger_fsync_interval,
            )

    def _find_history(self, path: Path) -> None:
        """See to it that what lies at the ledger's place is this run's past."""
        step = self.progress.started_at
        if step == 0:
            put_aside_anothers(path, vars(self.args), ("tst_",))
        elif not path.exists() and self.args.load and not is_object_storage_path(self.args.load):
            bring_along(path, Path(self.args.load) / "ledger.jsonl", step)

    def step(
        self,
        progress: ProgressAt,
        losses: dict[str, torch.Tensor],
        learning_rate: float | None,
        grad_norm: Any,
        seconds: dict[str, float],
        extras: dict[str, float],
    ) -> None:
        """A logged step.

        Args:
            progress: after the step.
            losses: of the step; empty on ranks that have none.
            learning_rate: of the step.
            grad_norm: before clipping.
            seconds: since the line before, as `StepClock.take` has them.
            extras: other figures of the step that this rank has.
        """
        if self._path is None:
            return
        own = {name: float(losses[name]) for name in _OBJECTIVES if name in losses} | extras
        known = self._relay.pass_on(own)
        if self._writer is None or known is None:
            return
        more = extras | {name: value for name, value in known.items() if name not in _OBJECTIVES}
        name = next((name for name in _OBJECTIVES if name in known), None)
        self._writer.write(
            "step",
            {
                **progress.fields(),
                "samples": progress.samples,
                "stage": progress.stage,
                **({"facts": {"bag_size": progress.bag_size}} if self.superposition else {}),
                "loss_name": name,
                "loss": None if name is None else known[name],
                "learning_rate": learning_rate,
                "grad_norm": None if grad_norm is None else float(grad_norm),
                **seconds,
                **({"extras": more} if more else {}),
            },
        )

    def validation(
        self,
        losses: dict[str, torch.Tensor],
        stderrs: dict[str, float],
        decision: Decision | None = None,
    ) -> None:
        """A validation.

        Args:
            losses: the next-token loss, and in a superposed stage the loss on bags; empty on ranks
                that have none.
            stderrs: their standard errors, where known.
            decision: that the validation led to.
        """
        if self._path is None:
            return
        own = {name: float(losses[name]) for name in _OBJECTIVES if name in losses}
        known = self._relay.pass_on(
            own | {f"{name}{_STDERR}": error for name, error in stderrs.items()}
        )
        if self._writer is None or known is None or NEXT_TOKEN_LOSS not in known:
            return
        fields: dict[str, Any] = {
            "next_token_loss": known[NEXT_TOKEN_LOSS],
            "next_token_loss_stderr": known.get(NEXT_TOKEN_LOSS + _STDERR),
        }
        if BAG_LOSS in known:
            fields["losses"] = {BAG_LOSS: known[BAG_LOSS]}
            fields["stderrs"] = {BAG_LOSS: known.get(BAG_LOSS + _STDERR)}
        if decision is not None:
            fields["facts"] = {"switch_step": decision.switch_step}
        self._writer.write("validation", self.progress.now.fields() | fields | self._held_out_text)

    @cached_property
    def _held_out_text(self) -> dict[str, int | None]:
        """Tokens and bytes of it that the next-token loss is measured on."""
        return held_out_text(self.args)


def ledger_path(args: argparse.Namespace) -> Path | None:
    """Where the run's ledger is kept: ``--ledger``, or beside its checkpoints."""
    if args.ledger is not None:
        return Path(args.ledger)
    if args.save is None or is_object_storage_path(args.save):
        return None
    return Path(args.save) / "ledger.jsonl"
