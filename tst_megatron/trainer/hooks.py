"""What Megatron's trainer has no seam for: what it calls by name, wrapped, and told as events.

Each is a name in ``megatron.training.training`` that the trainer looks up when it calls it. A test
fails when one is gone or takes other arguments. What is done at an event is the listeners'
(`tst_megatron.methods.events`): the methods', and the trainer's own.

- ``train_step``: the event ``stepping``; to tell the time of a step's computation from the time of
  everything else.
- ``save_checkpoint_and_time``: the event ``saved``; likewise.
- ``load_checkpoint``: a method may load another model's, and a HybridModel a GPTModel's.
- ``training_log``: the events ``stepped`` and ``step_logged``; to put stage, positions, data
  tokens, pace and the time that is left into Megatron's log line.
- ``evaluate``: the events ``evaluating``, ``set_evaluated`` and ``evaluated``; to measure a
  method's losses beside the next-token loss; with ``--fixed-validation``, on the same samples
  every time.
- ``evaluate_and_print_results``: only it knows whether the test set is evaluated.
- ``post_training_step_callbacks``: with ``--evaluate-at``, to ask the model between two steps,
  after a validation and before a checkpoint: the event ``scored``.
- ``MTPLossLoggingHelper``, ``get_moe_metrics_tracker``: to have the figures of heads and routers.
"""

import argparse
import gc
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, cached_property, partial
from inspect import signature
from typing import Any

import torch
from megatron.training import get_timers
from megatron.training import training as trainer

from tst_megatron.checkpoints.unwritten import load_planned
from tst_megatron.errors import was_interrupted
from tst_megatron.methods.events import (
    Evaluated,
    Listener,
    LoggedStep,
    Progress,
    Scored,
    ValidationSet,
)
from tst_megatron.methods.method import Evaluation, Run
from tst_megatron.methods.registry import complete
from tst_megatron.runs.stages import NEXT_TOKEN_LOSS, stage_at
from tst_megatron.trainer import as_hybrid
from tst_megatron.trainer.datasets import DatasetsProvider
from tst_megatron.trainer.live_comparison import LiveComparison
from tst_megatron.trainer.memory import loads_twin, remember
from tst_megatron.trainer.metrics import HeadMetrics, RouterMetrics
from tst_megatron.trainer.opening import StageLines
from tst_megatron.trainer.pace import Pace
from tst_megatron.trainer.progress import ProgressCounter
from tst_megatron.trainer.reading import validation_tokens
from tst_megatron.trainer.run_evaluations import Questions, RunEvaluations
from tst_megatron.trainer.run_ledger import RunLedger
from tst_megatron.trainer.sample_spread import take_stderrs
from tst_megatron.trainer.step_clock import CHECKPOINT, COMPUTE, EVALUATION, StepClock
from tst_megatron.trainer.tensorboard_scalars import TensorBoardScalars
from tst_megatron.trainer.trackers import scalar_at
from tst_megatron.trainer.validation import FixedValidation
from tst_megatron.trainer.validation_sets import as_one_set, text_together, together
from tst_megatron.wrapped import check_takes

HOOKED = {
    "train_step": ("forward_step_func", "data_iterator", "model"),
    "training_log": ("loss_dict", "total_loss_dict", "learning_rate", "iteration"),
    "evaluate": ("forward_step_func", "data_iterator", "model"),
    "evaluate_and_print_results": ("prefix", "forward_step_func", "data_iterator"),
    "load_checkpoint": ("ddp_model", "optimizer", "opt_param_scheduler"),
    "save_checkpoint_and_time": ("iteration", "model", "optimizer"),
    "post_training_step_callbacks": ("model", "optimizer", "opt_param_scheduler", "iteration"),
}
"""The trainer's functions that are wrapped, and the arguments that the wrappers rely on."""

_ORIGINALS = {name: getattr(trainer, name) for name in HOOKED}
_MOE_METRICS_TRACKER = trainer.get_moe_metrics_tracker
# Sums over the documents of a step: arguments of training_log and of Megatron's count of FLOPs.
_LENGTHS = ("seqlen_squared_sum_in_batch", "total_real_tokens_in_batch")
_ADVANCED = "advanced iterations"  # A key of Megatron's total_loss_dict, beside the losses.


def install_hooks(
    args: argparse.Namespace,
    run: Run,
    provider: DatasetsProvider,
    clock: StepClock,
    started: float,
    questions: Questions | None = None,
    listeners: Sequence[Listener] = (),
) -> None:
    """Wrap the trainer's functions for one run; a later call forgets what an earlier one did.

    Args:
        args: Megatron's validated arguments.
        run: what the run's methods make of it.
        provider: of the run's data.
        clock: of the process.
        started: when the process started, seconds since the epoch.
        questions: that the model is asked, on the rank that asks.
        listeners: beside those of the methods and of the trainer.

    Raises:
        RuntimeError: this version of Megatron has other functions.
    """
    for name, needed in HOOKED.items():
        check_takes(f"megatron.training.training.{name}", _ORIGINALS[name], needed)
    hooks = _Hooks(args, run, provider, clock, started, questions, listeners)
    for name in HOOKED:
        setattr(trainer, name, getattr(hooks, name))
    trainer.MTPLossLoggingHelper = hooks.heads
    trainer.get_moe_metrics_tracker = lambda: hooks.routers


class _Hooks:
    """The wrappers, and who listens."""

    def __init__(
        self,
        args: argparse.Namespace,
        run: Run,
        provider: DatasetsProvider,
        clock: StepClock,
        started: float,
        questions: Questions | None,
        listeners: Sequence[Listener],
    ) -> None:
        self.args = args
        self.run = run
        self.progress = ProgressCounter(args, run)
        self.validation = FixedValidation(args, provider)
        self.heads = HeadMetrics(args, self.progress)
        self.routers = RouterMetrics(_MOE_METRICS_TRACKER())
        # The last rank has the losses, the log line and TensorBoard.
        self._is_last = args.rank == args.world_size - 1
        # As it was given: full validation has it counted.
        self._eval_iters = int(args.eval_iters or 0)
        ledger = RunLedger(args, run, self.progress, started)
        self.listeners: tuple[Listener, ...] = (
            *run.listeners(args),
            *listeners,
            StageLines(args, run, self.progress, lambda line: trainer.print_rank_last(line)),
            self.routers,
            self.heads,
            TensorBoardScalars(args, ledger.gpu_hours),
            *([LiveComparison(args.compare_with)] if args.compare_with and self._is_last else []),
            # Last, so that it has what the others added.
            ledger,
        )
        self.evaluations = RunEvaluations(args, questions) if args.evaluate_at else None
        self.clock = clock
        self.pace = Pace()
        self._logged = self.progress.now
        self.losses = LossAverages(tuple({NEXT_TOKEN_LOSS, *(s.loss for s in run.stages)}))
        load = _ORIGINALS["load_checkpoint"]
        if loads_twin(args):
            load = partial(load_planned, load, as_hybrid.plan_of, True)
        self.load_checkpoint = run.load_checkpoint(load, partial(complete, args=args))
        self._has_started = False
        self._on_test_set = False
        self._set_names: Sequence[str] = args.validation_set_names or ("",)
        self._sets: list[ValidationSet] = []

    def train_step(self, *args: Any, **kwargs: Any) -> Any:
        """Megatron's, timed."""
        if was_interrupted():
            raise KeyboardInterrupt
        bound = signature(_ORIGINALS["train_step"]).bind(*args, **kwargs).arguments
        self._start(bound["model"], is_timed=True)
        stage = stage_at(self.run.stages, self.args.consumed_train_samples)
        for listener in self.listeners:
            listener.stepping(stage, bound["optimizer"])
        with self.clock.measure(COMPUTE):
            result = _ORIGINALS["train_step"](*args, **kwargs)
        for listener in self.listeners:
            listener.computed()
        return result

    def post_training_step_callbacks(
        self, model: Any, optimizer: Any, scheduler: Any, iteration: int, *args: Any, **kwargs: Any
    ) -> Any:
        """Megatron's, after the model was asked what it scores."""
        if self.evaluations is not None and self.evaluations.are_after(iteration):
            with self._out_of_step(model, optimizer):
                self._ask(self.evaluations, model)
        return _ORIGINALS["post_training_step_callbacks"](
            model, optimizer, scheduler, iteration, *args, **kwargs
        )

    @contextmanager
    def _out_of_step(self, model: Any, optimizer: Any) -> Iterator[None]:
        """As Megatron's ``train`` has it around a validation: parameters that are gathered as they
        are needed are gathered, and the clock of its log line stands still."""
        args = self.args
        with _stopped("interval-time"):
            gathers = trainer.should_disable_forward_pre_hook(args)
            if gathers:
                trainer.disable_forward_pre_hook(model, optimizer=optimizer)
            if args.manual_gc and args.manual_gc_eval:
                gc.collect()
            yield
            if args.manual_gc and args.manual_gc_eval:
                gc.collect(generation=0)
            if gathers:
                trainer.enable_forward_pre_hook(model)

    def _ask(self, evaluations: RunEvaluations, model: Any) -> None:
        now = self.progress.now
        with self.clock.measure(EVALUATION):
            found, lines = evaluations.ask(model, now)
            if self.args.empty_unused_memory_level >= 1:
                torch.cuda.empty_cache()
        for line in lines:
            trainer.print_rank_last(line)
        scored = Scored(now, found, scalar_at(now.step))
        for listener in self.listeners:
            listener.scored(scored)

    def save_checkpoint_and_time(self, iteration: int, *args: Any, **kwargs: Any) -> Any:
        """Megatron's, timed."""
        with self.clock.measure(CHECKPOINT):
            result = _ORIGINALS["save_checkpoint_and_time"](iteration, *args, **kwargs)
        for listener in self.listeners:
            listener.saved(iteration)
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
        """Megatron's, with our fields at the end of its line."""
        bound = signature(_ORIGINALS["training_log"]).bind(
            loss_dict, total_loss_dict, learning_rate, iteration, *args, **kwargs
        )
        lengths = {name: bound.arguments[name] for name in _LENGTHS if name in bound.arguments}
        progress = self.progress.after(iteration, lengths)
        is_first = bool(bound.arguments.get("is_first_iteration"))
        logs = iteration % self.args.log_interval == 0 or is_first
        self.losses.count(loss_dict, total_loss_dict, bound.arguments["skipped_iter"], logs)
        scalar = scalar_at(iteration)
        for listener in self.listeners:
            listener.stepped(progress, scalar)
        seconds = cache(partial(self._seconds_since_logged, progress))
        # The line is made and printed in there; that it is printed is all there is to hold on to.
        original_print = trainer.print_rank_last

        def print_with_ours(line: str) -> None:
            if logs:
                # Megatron's timer has waited for the GPU: what was measured on it has passed.
                seconds()
            original_print(f"{line}{self._in_words(progress)}")

        trainer.print_rank_last = print_with_ours
        try:
            result = _ORIGINALS["training_log"](*bound.args, **bound.kwargs)
        finally:
            trainer.print_rank_last = original_print
            # After the first step Megatron logs without starting a new interval.
            if iteration % self.args.log_interval == 0 and not is_first:
                self.losses.start_interval()
        if logs:
            norm = bound.arguments["grad_norm"]
            step = LoggedStep(
                progress=progress,
                losses={name: loss_dict[name] for name in self.losses.names if name in loss_dict},
                learning_rate=learning_rate,
                grad_norm=None if norm is None else float(norm),
                seconds=seconds(),
                extras={},
                scalar=scalar,
            )
            for listener in self.listeners:
                listener.step_logged(step)
        return result

    def _seconds_since_logged(self, progress: Progress) -> dict[str, float]:
        seconds = self.clock.take()
        self.pace.measure(self._logged, progress, seconds)
        self._logged = progress
        return seconds

    def _in_words(self, progress: Progress) -> str:
        """For the log line, in Megatron's form."""
        stage = progress.stage
        facts = (f" {name.replace('_', ' ')}: {value} |" for name, value in stage.facts.items())
        return (
            f" phase: {stage.method or 'ordinary'} | stage: {progress.stage_index} |"
            f"{''.join(facts)} positions: {progress.positions} | data tokens: "
            f"{progress.data_tokens} |{self.pace.in_words(self.run.stages, progress.samples)}"
        )

    def evaluate_and_print_results(
        self, prefix: str, forward_step_func: Any, data_iterator: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Megatron's; its prefix tells the test set from the validation sets."""
        # As megatron.training.training.pretrain words it.
        self._on_test_set = prefix.endswith("on test set")
        self._sets = []  # Those of one that ran out of time.
        alone: AbstractContextManager[None] = nullcontext()
        if self._on_test_set:
            # It was made for as many as were asked for.
            alone = as_one_set(self.args, self._eval_iters)
        elif self.args.multiple_validation_sets:
            if self.args.virtual_pipeline_model_parallel_size is not None and data_iterator:
                # A list a model chunk, where it goes through a list a set.
                data_iterator = [list(of_chunks) for of_chunks in zip(*data_iterator, strict=True)]
        elif self.args.full_validation and isinstance(self.args.eval_iters, int):
            # It sends round a number, and takes it for a list when it is back, as in `as_one_set`.
            self.args.eval_iters = [self.args.eval_iters]
        with self.clock.measure(EVALUATION), alone:
            return _ORIGINALS["evaluate_and_print_results"](
                prefix, forward_step_func, data_iterator, *args, **kwargs
            )

    def evaluate(
        self, forward_step_func: Any, data_iterator: Any, model: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Megatron's, with the methods' losses beside it."""
        self._start(model)
        eval_iters = kwargs["eval_iters"]
        if not self._on_test_set:
            if not self._sets:
                for listener in self.listeners:
                    listener.evaluating()
            if self.args.fixed_validation:
                place = len(self._sets)
                data_iterator = self.validation.iterators(None, eval_iters, len(model), place)
        losses, other, out_of_time = _ORIGINALS["evaluate"](
            forward_step_func, data_iterator, model, *args, **kwargs
        )
        if losses is None:
            return losses, other, out_of_time
        stderrs = self._stderrs(losses, eval_iters)
        if not self._on_test_set:
            for evaluation in self._evaluations():
                more = self._measure(evaluation, forward_step_func, model, args[1], eval_iters)
                losses |= more[0]
                stderrs |= more[1]
            self._add_set(eval_iters, losses, stderrs)
        return losses, other, out_of_time

    def _add_set(
        self, batches: int, losses: dict[str, torch.Tensor], stderrs: dict[str, float]
    ) -> None:
        """Tell of a validation set, and after the last one of the validation."""
        of_set = ValidationSet(self._set_names[len(self._sets)], batches, losses, stderrs)
        for listener in self.listeners:
            listener.set_evaluated(of_set)
        self._sets.append(of_set)
        if len(self._sets) == len(self._set_names):
            self._tell_evaluated()
            self._sets = []

    def _tell_evaluated(self) -> None:
        now, sets = self.progress.now, self._sets
        evaluated = Evaluated(now, *together(sets), scalar_at(now.step), trainer.print_rank_last)
        evaluated.text = text_together(sets)
        if self.args.multiple_validation_sets:
            evaluated.sets = tuple(sets)
        for listener in self.listeners:
            listener.evaluated(evaluated)
        # What a method decided now is what the next checkpoint has to know.
        remember(self.args, self.run)

    def _start(self, model: Any, is_timed: bool = False) -> None:
        """Before the first step or evaluation.

        Args:
            model: this rank's chunks.
            is_timed: whether the clock of Megatron's log line runs.
        """
        self.progress.start()
        if self._has_started:
            return
        self._has_started = True
        self._logged = self.progress.now
        for listener in self.listeners:
            listener.started(model)
        self.clock.start()
        if self.evaluations is not None and self.evaluations.are_at_start(self.progress.now.step):
            with _stopped("interval-time" if is_timed else None):
                self._ask(self.evaluations, model)

    def _evaluations(self) -> Sequence[Evaluation]:
        """What the methods measure in the stage of the last step; nothing before the first."""
        now = self.progress.now
        return self.run.evaluations(now.stage) if now.samples else ()

    def _measure(
        self, evaluation: Evaluation, forward_step_func: Any, model: Any, config: Any, iters: int
    ) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        """A method's loss on the validation split, and its standard error."""
        # As many data tokens as the next-token loss was measured on.
        iters = max(1, iters // evaluation.tokens_a_position)
        consumed = self.args.consumed_valid_samples
        place = len(self._sets)
        iterators = self.validation.iterators(evaluation, iters, len(model), place)
        losses, _, _ = _ORIGINALS["evaluate"](
            forward_step_func, iterators, model, None, config, eval_iters=iters
        )
        self.args.consumed_valid_samples = consumed
        losses = losses or {}
        return losses, self._stderrs(losses, iters, evaluation.tokens_a_position)

    def _stderrs(
        self, losses: dict[str, torch.Tensor], eval_iters: int, tokens_a_position: int = 1
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
        if tokens is not None and args.multiple_validation_sets and not self._on_test_set:
            tokens = tokens[len(self._sets) : len(self._sets) + 1]
        each = args.seq_length * tokens_a_position
        # One token more, which is the last one's target.
        most = math.inf if tokens is None else sum((one - 1) // each for one in tokens)
        return take_stderrs(losses, num_microbatches, most)

    @cached_property
    def _validation_tokens(self) -> list[int] | None:
        return validation_tokens(self.args)


class LossAverages:
    """Keeps Megatron's averages right where the loss changes its name inside a log interval.

    Megatron divides every loss by all steps of the interval, and goes on printing a loss that is no
    longer measured, as 0.

    Args:
        names: of the losses that the run is trained on.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._steps: dict[str, int] = {}

    def count(
        self,
        losses: dict[str, torch.Tensor],
        total: dict[str, Any],
        skipped: int,
        logs: bool,
    ) -> None:
        """Before Megatron adds a step's losses to the interval's.

        Args:
            losses: of the step.
            total: Megatron's sums over the interval, which are put right.
            skipped: 1 where the step's update was left out.
            logs: whether the step is logged.
        """
        for name in [name for name in self.names if name not in losses]:
            if self._steps.get(name, 0) == 0:
                total.pop(name, None)
        if not skipped:
            for name in losses:
                self._steps[name] = self._steps.get(name, 0) + 1
        if not logs:
            return
        advanced = total.get(_ADVANCED, 0) + (not skipped)
        for name, steps in self._steps.items():
            if name not in total and name not in losses:
                continue
            if 0 < steps < advanced:
                # Megatron adds this step's loss and divides by all the steps: undo the latter.
                now = losses[name] if name in losses and not skipped else 0.0
                total[name] = (total.get(name, 0.0) + now) * (advanced / steps) - now

    def start_interval(self) -> None:
        """A new log interval begins."""
        self._steps = {}


@contextmanager
def _stopped(name: str | None) -> Iterator[None]:
    """Stop one of Megatron's timers for as long."""
    if name is None:
        yield
        return
    timer = get_timers()(name, log_level=0)
    timer.stop()
    yield
    timer.start(barrier=True)
