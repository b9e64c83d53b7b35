"""The forward step that Megatron's schedules call; the sample index says which stage it is of."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache, partial
from typing import Any

import torch
from megatron.core.rerun_state_machine import get_rerun_state_machine
from megatron.core.utils import StragglerDetector, get_attr_wrapped_model
from megatron.training import get_args, get_timers
from torch import Tensor

from tst_megatron.methods.method import MicroBatch, Run
from tst_megatron.runs.stages import NEXT_TOKEN_LOSS, Stage, ordinary_stage, stage_at
from tst_megatron.stock.batch import Batch, ordinary_batch
from tst_megatron.trainer.held_out_bytes import HeldOutBytes
from tst_megatron.trainer.sample_spread import spread_of
from tst_megatron.trainer.step_clock import DATA_WAIT, StepClock

_SPIKY_LOSS_FACTOR = 10  # As in Megatron's pretrain_gpt.py.

LossFunction = Callable[[Tensor], tuple[Tensor, Tensor, dict[str, Tensor]]]


_ORDINARY = ordinary_stage(0)


class StageIterator:
    """Knows which stage its samples are of; on ranks without data it holds no iterator."""

    def __init__(self, stage: Stage, iterator: Iterator[dict[str, Tensor]] | None) -> None:
        self.stage = stage
        self._iterator = iterator

    def __iter__(self) -> "StageIterator":
        return self

    def __next__(self) -> dict[str, Tensor]:
        assert self._iterator is not None, "this rank reads no data"
        return next(self._iterator)


class ForwardStep:
    """Megatron's ``forward_step_func`` for a run.

    Args:
        run: what the run's methods make of it.

    Attributes:
        clock: is told of the time that batches are waited for.
        held_out: is told of the batches of validations.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.clock: StepClock | None = None
        self.held_out: HeldOutBytes | None = None
        self._straggler_timer = StragglerDetector()

    def __call__(
        self,
        data_iterator: Iterator[dict[str, Tensor]] | None,
        model: Any,
        return_schedule_plan: bool = False,
    ) -> tuple[Any, LossFunction]:
        """One micro-batch through this stage of the model.

        Args:
            data_iterator: of the training or the validation data.
            model: one model chunk, wrapped for data parallelism or not.
            return_schedule_plan: Megatron asks for a plan where it overlaps expert communication.

        Returns:
            Losses ``[b, L/cp]`` (hidden states before the last stage), and what reduces them.
        """
        args, timers = get_args(), get_timers()
        stage = self._stage_of(data_iterator, model)
        timers("batch-generator", log_level=2).start()
        waiting = nullcontext() if self.clock is None else self.clock.measure(DATA_WAIT)
        with waiting, self._looking_for_stragglers(bdata=True):
            batch = self.get_batch(stage, args, data_iterator, model)
        timers("batch-generator").stop()
        if self.held_out is not None and not model.training and stage.loss == NEXT_TOKEN_LOSS:
            self.held_out.add(batch, model)
        reduce_loss = partial(
            loss_function,
            batch.loss_mask,
            stage.loss,
            model,
        )
        inputs = (batch.tokens, batch.position_ids, batch.attention_mask)
        with self._looking_for_stragglers():
            if return_schedule_plan:
                plan = model.build_schedule_plan(
                    *inputs, labels=batch.labels, loss_mask=batch.loss_mask
                )
                return plan, reduce_loss
            output = model(
                *inputs,
                labels=batch.labels,
                loss_mask=batch.loss_mask,
                packed_seq_params=batch.packed_seq_params,
            )
        return output, reduce_loss

    @contextmanager
    def _looking_for_stragglers(self, bdata: bool = False) -> Iterator[None]:
        """Megatron's timer, without its own context, which logs a traceback of Ctrl-C, too."""
        timer = self._straggler_timer(bdata)
        timer.start()
        try:
            yield
        finally:
            timer.stop()

    def _stage_of(self, data_iterator: Any, model: Any) -> Stage:
        """The stage of this micro-batch; the same on every rank."""
        if isinstance(data_iterator, StageIterator):
            return data_iterator.stage
        if not model.training:
            return _ORDINARY
        return stage_at(self.run.stages, get_args().consumed_train_samples)

    def get_batch(self, stage: Stage, args: Any, data_iterator: Any, model: Any) -> Batch:
        """A micro-batch of a stage for this rank: Megatron's, or what the methods make of it."""
        vp_stage = get_attr_wrapped_model(model, "vp_stage")
        micro_batch_size = args.micro_batch_size if model.training else args.eval_micro_batch_size
        given = (args, data_iterator, vp_stage, micro_batch_size)
        batch: Batch = self.run.batch(MicroBatch(stage, *given), partial(ordinary_batch, *given))
        return batch


def loss_function(
    loss_mask: Tensor, loss_name: str, model: Any, losses: Tensor
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Sum the unmasked positions' losses, as Megatron's ``pretrain_gpt.py`` does.

    Args:
        loss_mask: ``[b, L/cp]``, float32.
        loss_name: what the log calls the loss.
        model: the model chunk, for losses that need it.
        losses: ``[b, L/cp]``, float32.

    Returns:
        The sum, the number of positions in it, and both under the loss's name for the log.
    """
    args = get_args()
    if args.logits_load_dir is not None:
        distillation_loss = _distillation_loss(
            args.logits_load_dir,
            args.logits_load_decode_threads,
            args.logits_load_prefetch_factor,
            args.logits_load_msc_prefetch_depth,
            args.logits_load_kd_loss_alpha,
            args.logits_load_ignore_errors,
        )
        loss, num_positions, report = distillation_loss(loss_mask, losses, model=model)
    else:
        mask = loss_mask.view(-1).float()
        loss = torch.sum(losses.view(-1).float() * mask)
        num_positions = mask.sum().clone().detach().to(torch.int)
        report = {loss_name: torch.cat([loss.clone().detach().view(1), num_positions.view(1)])}
        if not model.training:
            report |= spread_of(loss_name, losses.detach(), loss_mask)
    _check_loss(args, loss)
    return loss, num_positions, report


def _check_loss(args: Any, loss: Tensor) -> None:
    """Megatron's checks of a rank's loss before it is averaged over ranks."""
    rerun = get_rerun_state_machine()
    if args.check_for_nan_in_loss_and_grad:
        for is_bad, name in ((torch.isnan, "NaN"), (torch.isinf, "Inf")):
            rerun.validate_result(
                result=loss,
                rejection_func=is_bad,
                message=f"found {name} in local forward loss calculation",
                tolerance=0.0,
                fatal=True,
            )
    if args.check_for_spiky_loss:
        rerun.validate_result(
            result=loss,
            rejection_func=partial(
                rerun.is_unexpectedly_large, threshold=_SPIKY_LOSS_FACTOR, context="loss"
            ),
            message="Spiky loss",
            tolerance=0.0,
            fatal=False,
        )


@lru_cache(maxsize=1)
def _distillation_loss(*settings: Any) -> Any:
    """Megatron's loss against cached teacher logits; its reader of the cache is made once."""
    from megatron.training.distillation import LossFuncCallable

    names = ("logprobs_dir", "decode_threads", "prefetch_factor")
    more = ("msc_prefetch_depth", "kd_loss_alpha", "ignore_errors")
    return LossFuncCallable(**dict(zip(names + more, settings, strict=True)))
