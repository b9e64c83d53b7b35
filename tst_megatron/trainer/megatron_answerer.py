"""The ranks of a run as a `Scorer`: Megatron's model as it is, whatever the layout.

The one idea: rank 0 asks and all ranks answer. It hands rows to all (one broadcast of their ids),
each reads its share through Megatron's own schedule, and each rank of the last pipeline stage adds
what it knows to a table of two numbers a row, which one all-reduce over the job puts together. The
others wait for the next rows until rank 0 lets them go, so what fails on rank 0 between two calls
fails there alone.

Logits are made of the hidden states of the positions that are asked for, and of no others, block by
block ``[k, V/tp]``: behind the output layer's own call, where Megatron's wrappers have done their
part. Over the tensor-parallel group go a few numbers a position, never logits.
"""

import argparse
import logging
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import mpu
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.rerun_state_machine import RerunMode, get_rerun_state_machine
from megatron.core.tensor_parallel import get_cuda_rng_tracker
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.utils import get_model_config, unwrap_model
from megatron.training import ft_integration
from torch import Tensor

from tst_megatron.errors import UserError
from tst_megatron.evaluation.answerer import Answer, Row
from tst_megatron.stock.batch import Batch, split_over_context
from tst_megatron.trainer.dealing import MicroBatch, Question, Round, Table, deal
from tst_megatron.trainer.run_text import RunText

# Float32 logits that are there at once on a rank: 256 MiB, a few hundred rows of a large
# vocabulary.
_LOGITS_AT_ONCE = 2**26
# Micro-batches of a round for every pipeline stage, so that bubbles are a fifth of the time.
_BATCHES_A_STAGE = 4
# Tokens of a micro-batch that matrix units of 8 and 4 bits take are a multiple of this.
_NARROW_MULTIPLE = 32

logger = logging.getLogger(__name__)


@contextmanager
def only_reading(model: list[Any]) -> Iterator[None]:
    """See to it that forward passes leave nothing behind, and that the model is read as it is
    handed over: no dropout, no noise, no dropped tokens, no heads further on.

    Args:
        model: this rank's chunks.
    """
    rerun = get_rerun_state_machine()
    mode = rerun.get_mode()
    with ExitStack() as stack:
        stack.enter_context(_same_random_numbers())
        stack.enter_context(torch.no_grad())
        rerun.set_mode(RerunMode.DISABLED)
        stack.callback(rerun.set_mode, mode)
        configs = {
            id(config): config
            for chunk in model
            for module in chunk.modules()
            if (config := getattr(module, "config", None)) is not None
        }
        for config in (get_model_config(model[0]), *configs.values()):
            stack.enter_context(_set(config, _WHILE_READING))
        for chunk in model:
            was_training = {module for module in chunk.modules() if module.training}
            chunk.eval()
            stack.callback(_train_again, was_training)
            stack.enter_context(_set(unwrap_model(chunk), {"mtp_process": False}))
        yield


_WHILE_READING: dict[str, Any] = {
    "timers": None,
    # Of gradients there are none; what a schedule would take off and put on again stays off if it
    # fails in between.
    "no_sync_func": None,
    "grad_sync_func": None,
    "param_sync_func": None,
    "mtp_num_layers": None,
    # Neither is in an exported model: noise that Megatron adds when it validates, too, and tokens
    # that are dropped for what else is in their batch.
    "moe_input_jitter_eps": None,
    "moe_expert_capacity_factor": None,
}


@contextmanager
def _set(holder: Any, values: dict[str, Any]) -> Iterator[None]:
    """Attributes that it has, set for as long."""
    before = {name: getattr(holder, name) for name in values if hasattr(holder, name)}
    for name in before:
        setattr(holder, name, values[name])
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(holder, name, value)


def _train_again(modules: set[Any]) -> None:
    for module in modules:
        module.training = True


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Whoever draws, draws again what it would have drawn."""
    drawn = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_device, tracked = torch.cuda.get_rng_state(), get_cuda_rng_tracker().get_states()
    try:
        yield
    finally:
        random.setstate(drawn[0])
        np.random.set_state(drawn[1])
        torch.cuda.set_rng_state(on_device)
        torch.set_rng_state(drawn[2])
        get_cuda_rng_tracker().set_states(tracked)


class MegatronAnswerer:
    """A `Scorer` on rank 0, and a part of it on every other rank; inside of `only_reading`.

    Args:
        args: Megatron's validated arguments.
        model: this rank's chunks.
        text: of the run; None on ranks that do not ask.
    """

    def __init__(self, args: argparse.Namespace, model: list[Any], text: RunText | None) -> None:
        self._args = args
        self._model = model
        self._text = text
        self.name = "the run"
        self.max_length = int(args.seq_length)
        self.document_start = None if text is None else text.document_start
        self._table = table_of(args, get_model_config(model[0]))
        self._forward = get_forward_backward_func()

    def encode(self, text: str, adds_special: bool = False) -> list[int]:
        """As of `Scorer`."""
        assert self._text is not None, "this rank does not ask"
        return self._text.ids(text, adds_special)

    def score(self, rows: Sequence[Row]) -> list[Answer]:
        """As of `Scorer`; on rank 0, while the others `serve`.

        Raises:
            UserError: a rank could not read, or the model's probabilities are no numbers.
        """
        found = self._found(from_first(list(rows)))
        if not rows:
            return []
        if found[-1, 0]:
            raise UserError(
                f"{int(found[-1, 0]):,} ranks could not read the rows: their logs say why"
            )
        if not np.isfinite(found).all():
            raise UserError("the model gives probabilities that are no numbers: it diverged")
        return [
            Answer(float(nats), int(hits) == row.scored)
            for row, (nats, hits) in zip(rows, found[:-1], strict=True)
        ]

    def serve(self) -> None:
        """On the other ranks: read with rank 0 until it is done."""
        while (rows := from_first(None)) is not None:
            self._found(rows)

    def let_go(self) -> None:
        """On rank 0: the others need not wait any more."""
        from_first(None)

    def _found(self, rows: list[Row]) -> Any:
        """``[n + 1, 2]`` on all ranks: a row's log-probability and how many of its ids were the
        likeliest; last, how many ranks failed.

        All-reduces that over the job.
        """
        found = torch.zeros(len(rows) + 1, 2, dtype=torch.float64).cuda()
        try:
            for one in deal(rows, self._table):
                self._read(one, found)
        except Exception:
            # On another rank, too, if it is a collective's; then the job ends as in a step.
            logger.exception("Rank %d could not read rows of --evaluate-at.", self._args.rank)
            found.zero_()
            found[-1, 0] = 1.0
        dist.all_reduce(found)
        return found.cpu().numpy()

    def _read(self, one: Round, found: Tensor) -> None:
        own = one.batches[mpu.get_data_parallel_rank()]
        chunks = [(self._tensors(batch, one.length) for batch in own) for _ in self._model]

        def forward_step(batches: Iterator[_Tensors], model: Any) -> tuple[Any, Any]:
            batch = next(batches)
            with _hidden_states(model, partial(self._add, found, batch)):
                output = model(batch.tokens, batch.positions, batch.mask)
            return output, _nothing

        ft_integration.on_eval_step_start()
        self._forward(
            forward_step_func=forward_step,
            data_iterator=chunks if len(chunks) > 1 else chunks[0],
            model=self._model,
            num_microbatches=len(own),
            seq_length=one.length,
            micro_batch_size=self._table.batch_size,
            forward_only=True,
            collect_non_loss_data=True,
        )
        ft_integration.on_eval_step_end()

    def _tensors(self, batch: MicroBatch, length: int) -> "_Tensors":
        size = self._table.batch_size
        ids = torch.zeros(size, length, dtype=torch.int64)
        for row, of_row in zip(ids, batch.inputs, strict=False):
            row[: len(of_row)] = torch.tensor(of_row)
        mask = None
        if self._args.create_attention_mask_in_dataloader:
            mask = torch.ones(length, length).triu(1).bool().expand(size, 1, -1, -1).cuda()
        positions = torch.arange(length).expand(size, -1).contiguous().cuda()
        split = split_over_context(
            self._args, Batch(tokens=ids.cuda(), position_ids=positions, attention_mask=mask)
        )
        assert split.position_ids is not None
        here = {at: place for place, at in enumerate(split.position_ids[0].tolist())}
        asked = [one for one in batch.questions if one.position in here]
        return _Tensors(
            split.tokens,
            split.position_ids,
            split.attention_mask,
            *_columns([here[one.position] * size + one.row for one in asked], asked),
        )

    def _add(
        self,
        found: Tensor,
        batch: "_Tensors",
        logits_of: Callable[[Tensor], Tensor],
        hidden: Tensor,
    ) -> None:
        """Add what the logits at a micro-batch's questions say.

        Args:
            found: of `_found`.
            batch: the micro-batch.
            logits_of: hidden states ``[k, h]`` to logits ``[k, V/tp]``.
            hidden: ``[L/cp, b, h]``.
        """
        group = mpu.get_tensor_model_parallel_group()
        rank, padded = group.rank(), self._args.padded_vocab_size // group.size()
        at_once = max(1, _LOGITS_AT_ONCE // padded)
        rows = hidden.flatten(0, 1)
        for begin in range(0, batch.targets.numel(), at_once):
            some = slice(begin, begin + at_once)
            answers = score_ids(
                logits_of(rows[batch.at[some]]),
                batch.targets[some],
                rank * padded,
                self._args.tokenizer_tokens,
                group,
            )
            if rank == 0:
                found.index_add_(0, batch.places[some], torch.stack(answers, dim=1).double())


@dataclass(frozen=True)
class _Tensors:
    """A micro-batch of this rank.

    Attributes:
        tokens, positions: ``[b, L/cp]``, int64.
        mask: ``[b, 1, L/cp, L]``, bool, True where attention is barred; None for the causal one.
        at: ``[k]``, which of the L/cp * b hidden states.
        targets: ``[k]``, the id that is scored there.
        places: ``[k]``, of the row that asked.
    """

    tokens: Tensor | None
    positions: Tensor | None
    mask: Tensor | None
    at: Tensor
    targets: Tensor
    places: Tensor


def _columns(at: list[int], asked: Sequence[Question]) -> Iterator[Tensor]:
    for column in (at, [one.target for one in asked], [one.place for one in asked]):
        yield torch.tensor(column, dtype=torch.int64).cuda()


def score_ids(
    logits: Tensor, targets: Tensor, begin: int, size: int, group: dist.ProcessGroup
) -> tuple[Tensor, Tensor]:
    """How likely ids are, and whether each is the likeliest, of a vocabulary in shards.

    Collectives over the group: a maximum, a minimum and a sum, of one or two numbers an id.

    Args:
        logits: ``[k, V/tp]``, this rank's.
        targets: ``[k]``, int64, the ids.
        begin: this rank's first id.
        size: of the vocabulary: ids from there on are padding, and no text has them.
        group: the tensor-parallel one.

    Returns:
        Log-probabilities in nats, and 1 where the id is the likeliest and else 0; both ``[k]``,
        float32.
    """
    logits = logits.float()
    width = logits.shape[1]
    logits[:, max(0, size - begin) :] = -math.inf
    own_best, own_place = logits.max(dim=1)
    best = _reduced(own_best.clone(), dist.ReduceOp.MAX, group)
    likeliest = torch.where(own_best == best, own_place + begin, begin + width + size)
    likeliest = _reduced(likeliest, dist.ReduceOp.MIN, group)
    inside = (targets >= begin) & (targets < begin + width)
    chosen = logits.gather(1, (targets - begin).clamp(0, width - 1)[:, None])[:, 0]
    sums = torch.stack(
        [(logits - best[:, None]).exp().sum(dim=1), torch.where(inside, chosen - best, 0.0)]
    )
    sums = _reduced(sums, dist.ReduceOp.SUM, group)
    return sums[1] - sums[0].log(), (likeliest == targets).float()


def _reduced(values: Tensor, how: Any, group: dist.ProcessGroup) -> Tensor:
    if group.size() > 1:
        dist.all_reduce(values, how, group)
    return values


@contextmanager
def _hidden_states(
    model: Any, take: Callable[[Callable[[Tensor], Tensor], Tensor], None]
) -> Iterator[None]:
    """Take the hidden states of a forward pass where they go into the output layer.

    Args:
        model: a chunk; one without the last stage has none to take.
        take: is given what makes logits ``[k, V/tp]`` of some ``[k, h]``, and all hidden states
            ``[L/cp, b, h]``.
    """
    core = unwrap_model(model)
    if not core.post_process:
        yield
        return
    layer, own = core.output_layer, core.output_layer.forward
    is_split = layer.sequence_parallel

    def forward(
        hidden: Tensor, weight: Tensor | None = None, runtime_gather_output: bool | None = None
    ) -> tuple[Tensor, None]:
        if is_split:
            hidden = gather_from_sequence_parallel_region(hidden, group=core.pg_collection.tp)

        def logits_of(some: Tensor) -> Tensor:
            logits, _ = own(some[:, None], weight, False)
            return core._scale_logits(logits)[:, 0]

        take(logits_of, hidden)
        # In the place of the logits, which nobody reads.
        return hidden.new_zeros(1, 1, 1), None

    layer.forward = forward
    try:
        with _set(layer, {"sequence_parallel": False}):
            yield
    finally:
        # The class's own shows again.
        del layer.forward


def _nothing(output: Tensor, non_loss_data: bool) -> None:
    """What a schedule collects: all has been taken."""


def from_first(value: Any) -> Any:
    """What rank 0 has, on all ranks."""
    held = [value]
    dist.broadcast_object_list(held, src=0)
    return held[0]


def table_of(args: argparse.Namespace, config: Any) -> Table:
    """How rows are dealt to the ranks of a layout.

    Args:
        args: Megatron's validated arguments.
        config: of the model.
    """
    stages, context = args.pipeline_model_parallel_size, args.context_parallel_size
    is_interleaved = args.virtual_pipeline_model_parallel_size is not None
    group = config.microbatch_group_size_per_vp_stage if is_interleaved else 1
    most = 1 if stages == 1 else _BATCHES_A_STAGE * stages
    multiple = args.tensor_model_parallel_size if args.sequence_parallel else 1
    multiple *= 2 * context if context > 1 else 1
    multiple *= _NARROW_MULTIPLE if args.fp8 or args.fp4 else 1
    return Table(
        ranks=mpu.get_data_parallel_world_size(),
        batch_size=args.evaluate_batch_size or args.micro_batch_size,
        most_batches=-(-most // group) * group,
        group=group,
        multiple=multiple,
        longest=args.seq_length,
    )
