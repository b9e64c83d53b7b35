"""What Megatron's trainer has no seam for: what it calls by name, wrapped.

Each is a name in ``megatron.training.training`` that the trainer looks up when it calls it. A test
fails when one is gone or takes other arguments.

- ``train_step``: to tell the time of a step's computation from the time of everything else.
- ``save_checkpoint_and_time``: likewise.
- ``training_log``: to put bag size, stage, positions and data tokens into Megatron's log line and
  TensorBoard, and a line into the ledger.
- ``evaluate``: to measure the loss on bags beside the next-token loss in a superposed stage, and to
  put both into the ledger; with ``--fixed-validation``, on the same samples every time. There,
  too, the switch of an open schedule is decided.
- ``evaluate_and_print_results``: only it knows whether the test set is evaluated.
- ``MTPLossLoggingHelper``: to name what the heads of multi-token prediction make of bags.
- ``get_moe_metrics_tracker``: to have the router's losses of a step in the ledger.
"""

import argparse
import math
from functools import cached_property
from inspect import signature
from typing import Any

import torch
from megatron.training import get_tensorboard_writer, print_rank_last
from megatron.training import training as trainer

from tst_megatron.methods.superposition.arguments import Superposition
from tst_megatron.methods.superposition.head_metrics import HeadMetrics
from tst_megatron.methods.superposition.switch import loss_on_all_ranks
from tst_megatron.methods.superposition.switch_rule import Decision
from tst_megatron.trainer.consumed import Progress
from tst_megatron.trainer.datasets import DatasetsProvider
from tst_megatron.trainer.forward_step import BAG_LOSS, NEXT_TOKEN_LOSS
from tst_megatron.trainer.reading import validation_tokens
from tst_megatron.trainer.router_metrics import RouterMetrics
from tst_megatron.trainer.run_ledger import RunLedger
from tst_megatron.trainer.sample_spread import take_stderrs
from tst_megatron.trainer.step_clock import CHECKPOINT, COMPUTE, EVALUATION, StepClock
from tst_megatron.trainer.tensorboard_scalars import TensorBoardScalars
from tst_megatron.trainer.validation import FixedValidation

HOOKED = {
    "train_step": ("forward_step_func", "data_iterator", "model"),
    "training_log": ("loss_dict", "total_loss_dict", "learning_rate", "iteration"),
    "evaluate": ("forward_step_func", "data_iterator", "model"),
    "evaluate_and_print_results": ("prefix", "forward_step_func", "data_iterator"),
    "save_checkpoint_and_time": ("iteration", "model", "optimizer"),
}
"""The trainer's functions that are wrapped, and the arguments that the wrappers rely on."""

_ORIGINALS = {name: getattr(trainer, name) for name in HOOKED}
_MOE_METRICS_TRACKER = trainer.get_moe_metrics_tracker
# Sums over the documents of a step: arguments of training_log and of Megatron's count of FLOPs.
_LENGTHS = ("seqlen_squared_sum_in_batch", "total_real_tokens_in_batch")
_ADVANCED = "advanced iterations"  # A key of Megatron's total_loss_dict, beside the losses.


def install_hooks(
    args: argparse.Namespace,
    superposition: Superposition | None,
    provider: DatasetsProvider,
    clock: StepClock,
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
    hooks = _Hooks(args, superposition, provider, clock, started)
    for name in HOOKED:
        setattr(trainer, name, getattr(hooks, name))
    trainer.MTPLossLoggingHelper = hooks.heads
    trainer.get_moe_metrics_tracker = lambda: hooks.routers


class _Hooks:
    """The wrappers, and what they measure between them."""

    def __init__(
        self,
        args: argparse.Namespace,
        superposition: Superposition | None,
        provider: DatasetsProvider,
        clock: StepClock,
        started: float,
    ) -> None:
        self.args = args
        self.superposition = superposition
        self.progress = Progress(args, superposition)
        self.validation = FixedValidation(args, provider)
        self.heads = HeadMetrics(args, self.progress)
        self.routers = RouterMetrics(_MOE_METRICS_TRACKER())
        self.ledger = RunLedger(args, superposition, self.progress, started)
        # The last rank has the losses, the log line and TensorBoard.
        self._is_last = args.rank == args.world_size - 1
        self.scalars = TensorBoardScalars(args.compare_with if self._is_last else None)
        self.clock = clock
        self._steps_of_loss: dict[str, int] = {}
        self._on_test_set = False

    def train_step(self, *args: Any, **kwargs: Any) -> Any:
        """Megatron's, timed."""
        self._start(signature(_ORIGINALS["train_step"]).bind(*args, **kwargs).arguments["model"])
        with self.clock.measure(COMPUTE):
            return _ORIGINALS["train_step"](*args, **kwargs)

    def save_checkpoint_and_time(self, *args: Any, **kwargs: Any) -> Any:
        """Megatron's, timed."""
        with self.clock.measure(CHECKPOINT):
            return _ORIGINALS["save_checkpoint_and_time"](*args, **kwargs)

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
        lengths = {name: bound.arguments[name] for name in _LENGTHS if name in bound.arguments}
        progress = self.progress.after(iteration, lengths)
        is_first = bool(bound.arguments.get("is_first_iteration"))
        logs = iteration % self.args.log_interval == 0 or is_first
        self._count_losses(loss_dict, total_loss_dict, bound.arguments["skipped_iter"], logs)
        writer = get_tensorboard_writer()
        if writer is not None and iteration % self.args.tensorboard_log_interval == 0:
            self.scalars.progress(writer, progress)
        # The line is made and printed in there; that it is printed is all there is to hold on to.
        original_print = trainer.print_rank_last
        trainer.print_rank_last = lambda line: original_print(f"{line} {progress.log_fields()} |")
        try:
            result = _ORIGINALS["training_log"](*bound.args, **bound.kwargs)
        finally:
            trainer.print_rank_last = original_print
            # After the first step Megatron logs without starting a new interval.
            if iteration % self.args.log_interval == 0 and not is_first:
                self._steps_of_loss = {}
        if logs:
            seconds = self.clock.take()
            if writer is not None and self.ledger.gpu_hours is not None:
                self.scalars.step(writer, iteration, seconds, self.ledger.gpu_hours)
            self.ledger.step(
                progress,
                loss_dict,
                learning_rate,
                bound.arguments["grad_norm"],
                seconds,
                self.routers.values | self.heads.values,
            )
        return result

    def evaluate_and_print_results(self, prefix: str, *args: Any, **kwargs: Any) -> Any:
        """Megatron's; its prefix tells the test set from the validation set."""
        # As megatron.training.training.pretrain words it.
        self._on_test_set = prefix.endswith("on test set")
        with self.clock.measure(EVALUATION):
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
        self._start(model)
        if self.args.fixed_validation and not self._on_test_set:
            data_iterator = self.validation.iterators(1, 1, kwargs["eval_iters"], len(model))
        losses, other, out_of_time = _ORIGINALS["evaluate"](
            forward_step_func, data_iterator, model, *args, **kwargs
        )
        if losses is None:
            return losses, other, out_of_time
        eval_iters = kwargs["eval_iters"]
        stderrs = self._stderrs(losses, eval_iters)
        if not self._on_test_set:
            bag_losses, bag_stderrs = self._bag_losses(
                forward_step_func, model, args[1], eval_iters
            )
            losses |= bag_losses
            stderrs |= bag_stderrs
            self.ledger.validation(losses, stderrs, self._decide(losses))
            sentence = self.scalars.validation(
                get_tensorboard_writer(), self.progress.now.step, losses, stderrs
            )
            if sentence is not None:
                trainer.print_rank_last(f" compared with {self.args.compare_with}: {sentence}")
        return losses, other, out_of_time

    def _start(self, model: Any) -> None:
        """Before the first step or evaluation."""
        self.progress.start()
        self.ledger.start(model)
        self.clock.start()

    def _bag_losses(
        self, forward_step_func: Any, model: Any, config: Any, eval_iters: int
    ) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        """The superposed objective on the validation split, and its standard error.

        Both are empty in an ordinary stage.
        """
        bag_size = self.progress.superposed_bag_size()
        if bag_size is None or self.superposition is None:
            return {}, {}
        tokens_a_place = bag_size if self.superposition.reads_bags else 1
        # As many data tokens as the next-token loss was measured on.
        eval_iters = max(1, eval_iters // tokens_a_place)
        consumed = self.args.consumed_valid_samples
        iterators = self.validation.iterators(bag_size, tokens_a_place, eval_iters, len(model))
        losses, _, _ = _ORIGINALS["evaluate"](
            forward_step_func, iterators, model, None, config, eval_iters=eval_iters
        )
        self.args.consumed_valid_samples = consumed
        losses = losses or {}
        return losses, self._stderrs(losses, eval_iters, tokens_a_place)

    def _stderrs(
        self, losses: dict[str, torch.Tensor], eval_iters: int, tokens_a_place: int = 1
    ) -> dict[str, float]:
        """Standard errors, taken out of what an evaluation returned.

        It returns nothing on ranks without the last stage.
        """
        if not losses:
            return {}
        args = self.args
        num_microbatches = eval_iters * args.eval_global_batch_size // args.eval_micro_batch_size
        # The other ranks' errors go nowhere, and the text may have many documents to count.
        tokens = self._validation_tokens if self._is_last else None
        most = math.inf if tokens is None else tokens / (args.seq_length * tokens_a_place)
        return take_stderrs(losses, num_microbatches, most)

    @cached_property
    def _validation_tokens(self) -> int | None:
        return validation_tokens(self.args)

    def _decide(self, losses: dict[str, torch.Tensor]) -> Decision | None:
        """Whether the superposed stage of an open schedule is to end; the same on every rank."""
        superposition = self.superposition
        if superposition is None or superposition.switch is None:
            return None
        if self.progress.superposed_bag_size() is None:
            return None
        step = self.progress.now.step
        decision = superposition.switch.measured(step, loss_on_all_ranks(losses.get(BAG_LOSS)))
        self.args.tst_superposition = superposition.as_saved()
        if decision is not None:
            print_rank_last(f" {decision.in_words()}")
            if (writer := get_tensorboard_writer()) is not None:
                writer.add_scalar("switch-step", decision.switch_step, step)
        return decision

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
