"""What Megatron's trainer has no seam for: four of its functions, and a class, wrapped.

Each is a name in ``megatron.training.training`` that the trainer looks up when it calls it. A test
fails when one is gone or takes other arguments.

- ``train_step``: to tell the time of a step's computation from the time of everything else.
- ``training_log``: to put bag size, stage, positions and data tokens into Megatron's log line and
  TensorBoard, and a line into the ledger.
- ``evaluate``: to measure the loss on bags beside the next-token loss in a superposed stage, and to
  put both into the ledger; with ``--tst-fixed-validation``, on the same samples every time.
- ``evaluate_and_print_results``: only it knows whether the test set is evaluated.
- ``MTPLossLoggingHelper``: to name what the heads of multi-token prediction make of bags.
"""

import argparse
import platform
import time
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from megatron.core.datasets.object_storage_utils import is_object_storage_path
from megatron.training import get_tensorboard_writer
from megatron.training import training as trainer

from tst_megatron.training.arguments import Superposition
from tst_megatron.training.consumed import Progress, ProgressAt
from tst_megatron.training.datasets import DatasetsProvider
from tst_megatron.training.forward_step import BAG_LOSS, NEXT_TOKEN_LOSS
from tst_megatron.training.head_metrics import HeadMetrics
from tst_megatron.training.ledger_writer import LedgerWriter
from tst_megatron.training.validation import FixedValidation

HOOKED = {
    "train_step": ("forward_step_func", "data_iterator", "model"),
    "training_log": ("loss_dict", "total_loss_dict", "learning_rate", "iteration"),
    "evaluate": ("forward_step_func", "data_iterator", "model"),
    "evaluate_and_print_results": ("prefix", "forward_step_func", "data_iterator"),
}
"""The trainer's functions that are wrapped, and the arguments that the wrappers rely on."""

_ORIGINALS = {name: getattr(trainer, name) for name in HOOKED}
_ADVANCED = "advanced iterations"  # A key of Megatron's total_loss_dict, beside the losses.


def install_hooks(
    args: argparse.Namespace,
    superposition: Superposition | None,
    provider: DatasetsProvider,
    started: float,
) -> None:
    """Wrap the trainer's functions for one run; a later call forgets what an earlier one did.

    Raises:
        RuntimeError: this version of Megatron has other functions.
    """
    for name, needed in HOOKED.items():
        found = tuple(signature(_ORIGINALS[name]).parameters)
        if found[: len(needed)] != needed:
            raise RuntimeError(
                f"megatron.training.training.{name} takes {found}: install the megatron-core "
                "version in requirements/"
            )
    hooks = _Hooks(args, superposition, provider, started)
    for name in HOOKED:
        setattr(trainer, name, getattr(hooks, name))
    trainer.MTPLossLoggingHelper = HeadMetrics(args, hooks.progress)


class _Hooks:
    """The wrappers, and what they measure between them."""

    def __init__(
        self,
        args: argparse.Namespace,
        superposition: Superposition | None,
        provider: DatasetsProvider,
        started: float,
    ) -> None:
        self.args = args
        self.superposition = superposition
        self.progress = Progress(args, superposition)
        self.validation = FixedValidation(args, provider)
        self._started = started
        self._ledger: LedgerWriter | None = None
        self._compute_s = 0.0
        self._logged = started
        self._steps_of_loss: dict[str, int] = {}
        self._on_test_set = False

    def train_step(self, *args: Any, **kwargs: Any) -> Any:
        """Megatron's, timed."""
        self.progress.start()
        begin = time.monotonic()
        result = _ORIGINALS["train_step"](*args, **kwargs)
        self._compute_s += time.monotonic() - begin
        return result

    def training_log(
        self,
        loss_dict: dict[str, torch.Tensor],
        total_loss_dict: dict[str, Any],
        learning_rate: float | None,
        iteration: int,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Megatron's, with our fields at the end of its line, and our own lines and scalars."""
        bound = signature(_ORIGINALS["training_log"]).bind(
            loss_dict, total_loss_dict, learning_rate, iteration, *args, **kwargs
        )
        progress = self.progress.after(iteration)
        is_first = bool(bound.arguments.get("is_first_iteration"))
        logs = iteration % self.args.log_interval == 0 or is_first
        self._count_losses(loss_dict, total_loss_dict, bound.arguments["skipped_iter"], logs)
        if logs:
            self._write_step(progress, loss_dict, learning_rate, bound.arguments["grad_norm"])
        self._write_scalars(progress, iteration)
        # The line is made and printed in there; that it is printed is all there is to hold on to.
        original_print = trainer.print_rank_last
        trainer.print_rank_last = lambda line: original_print(f"{line} {progress.log_fields()} |")
        try:
            return _ORIGINALS["training_log"](*bound.args, **bound.kwargs)
        finally:
            trainer.print_rank_last = original_print
            # After the first step Megatron logs without starting a new interval.
            if iteration % self.args.log_interval == 0 and not is_first:
                self._steps_of_loss = {}

    def evaluate_and_print_results(self, prefix: str, *args: Any, **kwargs: Any) -> Any:
        """Megatron's; its prefix tells the test set from the validation set."""
        # As megatron.training.training.pretrain words it.
        self._on_test_set = prefix.endswith("on test set")
        return _ORIGINALS["evaluate_and_print_results"](prefix, *args, **kwargs)

    def evaluate(
        self,
        forward_step_func: Any,
        data_iterator: Any,
        model: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Megatron's, with the loss on bags beside it in a superposed stage."""
        if self._on_test_set:
            return _ORIGINALS["evaluate"](forward_step_func, data_iterator, model, *args, **kwargs)
        self.progress.start()
        if self.args.tst_fixed_validation:
            data_iterator = self.validation.iterators(1, 1, kwargs["eval_iters"], len(model))
        losses, other, out_of_time = _ORIGINALS["evaluate"](
            forward_step_func, data_iterator, model, *args, **kwargs
        )
        if losses is None:
            return losses, other, out_of_time
        losses |= self._bag_losses(forward_step_func, model, args[1], kwargs["eval_iters"])
        self._write_validation(losses)
        return losses, other, out_of_time

    def _bag_losses(self, forward_step_func: Any, model: Any, config: Any, eval_iters: int) -> Any:
        """The superposed objective on the validation split; empty in an ordinary stage."""
        bag_size = self.progress.superposed_bag_size()
        if bag_size is None or self.superposition is None:
            return {}
        tokens_a_place = bag_size if self.superposition.reads_bags else 1
        # As many data tokens as the next-token loss was measured on.
        eval_iters = max(1, eval_iters // tokens_a_place)
        consumed = self.args.consumed_valid_samples
        iterators = self.validation.iterators(bag_size, tokens_a_place, eval_iters, len(model))
        losses, _, _ = _ORIGINALS["evaluate"](
            forward_step_func, iterators, model, None, config, eval_iters=eval_iters
        )
        self.args.consumed_valid_samples = consumed
        return losses or {}

    def _count_losses(
        self,
        loss_dict: dict[str, torch.Tensor],
        total_loss_dict: dict[str, Any],
        skipped: int,
        logs: bool,
    ) -> None:
        """Keep Megatron's averages right where the loss changes its name inside an interval.

        Megatron divides every loss by all steps of the interval, and goes on printing a loss that
        is no longer measured, as 0.
        """
        for name in [n for n in (NEXT_TOKEN_LOSS, BAG_LOSS) if n not in loss_dict]:
            if self._steps_of_loss.get(name, 0) == 0:
                total_loss_dict.pop(name, None)
        if not skipped:
            for name in loss_dict:
                self._steps_of_loss[name] = self._steps_of_loss.get(name, 0) + 1
        if not logs:
            return
        advanced = total_loss_dict.get(_ADVANCED, 0) + (not skipped)
        for name, steps in self._steps_of_loss.items():
            if name not in total_loss_dict and name not in loss_dict:
                continue
            if 0 < steps < advanced:
                # Megatron adds this step's loss and divides by all the steps: undo the latter.
                now = loss_dict[name] if name in loss_dict and not skipped else 0.0
                total = total_loss_dict.get(name, 0.0) + now
                total_loss_dict[name] = total * (advanced / steps) - now

    def _write_step(
        self,
        progress: ProgressAt,
        loss_dict: dict[str, torch.Tensor],
        learning_rate: float | None,
        grad_norm: Any,
    ) -> None:
        now = time.time()
        compute_s, self._compute_s = self._compute_s, 0.0
        elapsed_s, self._logged = now - self._logged, now
        ledger = self._open_ledger()
        if ledger is None:
            return
        name = next((n for n in (NEXT_TOKEN_LOSS, BAG_LOSS) if n in loss_dict), None)
        ledger.write(
            "step",
            {
                **progress.fields(),
                "stage": progress.stage,
                "bag_size": progress.bag_size,
                "loss_name": name,
                "loss": None if name is None else float(loss_dict[name]),
                "learning_rate": learning_rate,
                "grad_norm": None if grad_norm is None else float(grad_norm),
                "compute_s": round(compute_s, 4),
                "other_s": round(max(0.0, elapsed_s - compute_s), 4),
            },
        )

    def _write_validation(self, losses: dict[str, torch.Tensor]) -> None:
        ledger = self._open_ledger()
        if ledger is None or NEXT_TOKEN_LOSS not in losses:
            return
        fields = self.progress.now.fields() | {"next_token_loss": float(losses[NEXT_TOKEN_LOSS])}
        if BAG_LOSS in losses:
            fields["bag_loss"] = float(losses[BAG_LOSS])
        ledger.write("validation", fields)

    def _write_scalars(self, progress: ProgressAt, iteration: int) -> None:
        writer = get_tensorboard_writer()
        if writer is None or iteration % self.args.tensorboard_log_interval:
            return
        writer.add_scalar("bag-size", progress.bag_size, iteration)
        writer.add_scalar("stage", progress.stage, iteration)
        writer.add_scalar("positions", progress.positions, iteration)
        writer.add_scalar("data-tokens", progress.data_tokens, iteration)

    def _open_ledger(self) -> LedgerWriter | None:
        """The ledger, on the rank that has the losses: the last one, as with TensorBoard."""
        path = ledger_path(self.args)
        if path is None or self.args.rank != self.args.world_size - 1:
            return None
        if self._ledger is None:
            header = _header(self.args, self.superposition, self.progress.started_at)
            self._ledger = LedgerWriter(path, header, self._started, self.args.world_size)
        return self._ledger


def ledger_path(args: argparse.Namespace) -> Path | None:
    """Where the run's ledger is kept: ``--tst-ledger``, or beside its checkpoints."""
    if args.tst_ledger is not None:
        return Path(args.tst_ledger)
    if args.save is None or is_object_storage_path(args.save):
        return None
    return Path(args.save) / "ledger.jsonl"


def _header(
    args: argparse.Namespace, superposition: Superposition | None, step: int
) -> dict[str, Any]:
    plain = (str, int, float, bool, type(None), list, tuple, dict)
    return {
        "step": step,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "megatron-core": version("megatron-core"),
            "tst-megatron": version("tst-megatron"),
        },
        "host": platform.platform(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "world_size": args.world_size,
        "seed": args.seed,
        "superposition": None if superposition is None else superposition.as_saved(),
        "flags": {k: v for k, v in sorted(vars(args).items()) if isinstance(v, plain)},
    }
