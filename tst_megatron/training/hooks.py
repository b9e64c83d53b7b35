"""What Megatron's trainer has no seam for: four of its functions, wrapped.

Each is a name in ``megatron.training.training`` that the trainer looks up when it calls it. A test
fails when one is gone or takes other arguments.

- ``train_step``: to tell the time of a step's computation from the time of everything else.
- ``training_log``: to put bag size, stage, positions and data tokens into Megatron's log line and
  TensorBoard, and a line into the ledger.
- ``evaluate``: to measure the loss on bags beside the next-token loss in a superposed stage, and to
  put both into the ledger; with ``--tst-fixed-validation``, on the same samples every time.
- ``evaluate_and_print_results``: only it knows whether the test set is evaluated.
"""

import argparse
import platform
import time
from dataclasses import dataclass
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from megatron.core.datasets.object_storage_utils import is_object_storage_path
from megatron.core.rerun_state_machine import RerunDataIterator
from megatron.training import get_tensorboard_writer
from megatron.training import training as trainer
from megatron.training.datasets.data_samplers import build_pretraining_data_loader

from tst_megatron.training.arguments import Superposition
from tst_megatron.training.datasets import DatasetsProvider
from tst_megatron.training.forward_step import BAG_LOSS, NEXT_TOKEN_LOSS, BagIterator
from tst_megatron.training.ledger import LedgerWriter

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
        progress: "ProgressAt",
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

    def _write_scalars(self, progress: "ProgressAt", iteration: int) -> None:
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


@dataclass(frozen=True)
class ProgressAt:
    """How far a run is after a step.

    Attributes:
        step: optimizer steps.
        stage: index of the stage that the step was in.
        bag_size: s of that stage.
        is_superposed: whether it was a superposed stage.
        positions: positions computed on so far, batch and sequence multiplied out.
        data_tokens: tokens read so far.
        flops: floating-point operations so far, as Megatron counts them.
    """

    step: int = 0
    stage: int = 0
    bag_size: int = 1
    is_superposed: bool = False
    positions: int = 0
    data_tokens: int = 0
    flops: float = 0.0

    def fields(self) -> dict[str, Any]:
        """For a ledger line."""
        return {
            "step": self.step,
            "positions": self.positions,
            "data_tokens": self.data_tokens,
            "flops": self.flops,
        }

    def log_fields(self) -> str:
        """For the log line, in Megatron's form."""
        return (
            f"phase: {'superposition' if self.is_superposed else 'ordinary'} | "
            f"stage: {self.stage} | bag size: {self.bag_size} | positions: {self.positions} | "
            f"data tokens: {self.data_tokens}"
        )


class Progress:
    """Counts what the run has consumed, from Megatron's own count of samples."""

    def __init__(self, args: argparse.Namespace, superposition: Superposition | None) -> None:
        self.args = args
        self.superposition = superposition
        self.started_at = 0
        self._samples: int | None = None
        self.now = ProgressAt()

    def start(self) -> None:
        """Take over what the loaded checkpoint had consumed; later calls do nothing."""
        if self._samples is None:
            self.started_at = self.args.iteration
            self.now = self._at(
                self.args.iteration, float(self.args.num_floating_point_operations_so_far)
            )

    def after(self, iteration: int) -> ProgressAt:
        """Count the step that Megatron has just counted as consumed."""
        assert self._samples is not None, "a step was logged before one was trained"
        new_samples = self.args.consumed_train_samples - self._samples
        flops = trainer.num_floating_point_operations(self.args, new_samples)
        self.now = self._at(iteration, self.now.flops + flops)
        return self.now

    def _at(self, iteration: int, flops: float) -> ProgressAt:
        self._samples = samples = int(self.args.consumed_train_samples)
        positions = data_tokens = samples * self.args.seq_length
        stage, bag_size, is_superposed = 0, 1, False
        if self.superposition is not None:
            schedule = self.superposition.schedule
            data_tokens = self.superposition.data_schedule.data_tokens(
                samples, self.args.seq_length
            )
            # Of the last step's samples: `samples` itself is the first index of the next step.
            location = schedule.locate(max(0, samples - 1))
            stage, bag_size = location.stage, location.bag_size
            is_superposed = stage < len(schedule.superposed_stages)
        return ProgressAt(iteration, stage, bag_size, is_superposed, positions, data_tokens, flops)

    def superposed_bag_size(self) -> int | None:
        """Bag size of the last step, if it was superposed."""
        if not self._samples or not self.now.is_superposed:
            return None
        # On bags of one the objective is the next-token loss itself.
        return self.now.bag_size if self.now.bag_size > 1 else None


class FixedValidation:
    """Validation iterators that read the same samples every time, as bags or as tokens."""

    def __init__(self, args: argparse.Namespace, provider: DatasetsProvider) -> None:
        self.args = args
        self.provider = provider
        self._datasets: dict[tuple[int, int], Any] = {}

    def iterators(
        self, bag_size: int, tokens_a_place: int, eval_iters: int, num_model_chunks: int
    ) -> Any:
        """From the first sample of the validation split.

        Args:
            bag_size: s of the objective.
            tokens_a_place: s of the data: 1 where single tokens are read.
            eval_iters: batches that will be taken.
            num_model_chunks: of this rank.

        Returns:
            One iterator, or one a model chunk where the schedule is interleaved, as Megatron's
            schedules take them.
        """
        chunks: list[BagIterator] = []
        interleaved = self.args.virtual_pipeline_model_parallel_size is not None
        for chunk in range(num_model_chunks):
            dataset = self._dataset(tokens_a_place, eval_iters, chunk if interleaved else None)
            loader = build_pretraining_data_loader(dataset, 0)
            iterator = None if loader is None else RerunDataIterator(_forever(loader))
            chunks.append(BagIterator(bag_size, iterator))
        return chunks if interleaved else chunks[0]

    def _dataset(self, tokens_a_place: int, eval_iters: int, vp_stage: int | None) -> Any:
        key = (tokens_a_place, vp_stage or 0)
        if key not in self._datasets:
            num_samples = None
            if not self.args.full_validation:
                num_samples = eval_iters * self.args.eval_global_batch_size
            self._datasets[key] = self.provider.validation(tokens_a_place, num_samples, vp_stage)
        return self._datasets[key]


def _forever(loader: Any) -> Any:
    while True:
        batches = 0
        for batch in loader:
            batches += 1
            yield batch
        if not batches:
            raise RuntimeError(
                "the validation split has too little text for one sample a data-parallel rank: "
                "give --split more of it"
            )


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
