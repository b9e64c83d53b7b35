"""Whether a layout divides: ranks, heads, experts, sequences and batches.

What Megatron would meet at different places, some of them only as it builds the model, and says in
its own names.
"""

import argparse

from tst_megatron.errors import UserError

_TP = "--tensor-model-parallel-size"
_SIZES = (
    *("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size"),
    *("expert_model_parallel_size", "expert_tensor_parallel_size"),
)


def check_layout(args: argparse.Namespace, ranks: int, flag: str | None = None) -> None:
    """Check flags against a number of ranks.

    Args:
        args: as Megatron's parser reads them, before validation.
        ranks: the world size.
        flag: that gave it; None where a launcher did.

    Raises:
        UserError: something does not divide.
    """
    for size in _SIZES:
        value = getattr(args, size)
        if value is not None and value < 1:
            raise UserError(
                f"--{size.replace('_', '-')} {value} is no number of ranks: give 1 or more"
            )
    tp, pp = args.tensor_model_parallel_size, args.pipeline_model_parallel_size
    cp, ep = args.context_parallel_size, args.expert_model_parallel_size
    etp = args.expert_tensor_parallel_size or tp
    _divide_ranks(ranks, flag, tp * pp * cp, "tensor x pipeline x context parallel size")
    if args.num_experts:
        _divide_ranks(ranks, flag, etp * ep * pp, "expert tensor x expert x pipeline parallel size")
        _divide(args.num_experts, ep, "--num-experts", "--expert-model-parallel-size")
    elif ep > 1:
        raise UserError("--expert-model-parallel-size needs experts: leave it out")
    if args.num_attention_heads:
        _divide(args.num_attention_heads, tp, "--num-attention-heads", _TP)
    if args.group_query_attention and args.num_query_groups:
        smaller, larger = sorted((args.num_query_groups, tp))
        if larger % smaller:
            raise UserError(
                f"--num-query-groups {args.num_query_groups} and {_TP} {tp} do not divide: use "
                f"{_TP} {_nearest_divisor(args.num_query_groups, tp)}"
            )
    if cp > 1 and args.seq_length:
        _divide(args.seq_length, 2 * cp, "--seq-length", "twice --context-parallel-size")
    _check_batches(args, ranks // (tp * pp * cp))


def _check_batches(args: argparse.Namespace, data_ranks: int) -> None:
    """That every data-parallel rank has as many whole micro-batches, of training and evaluation."""
    batch, micro = args.global_batch_size, args.micro_batch_size
    # It is lowered to one that divides, or is that of a schedule, where that is asked for.
    is_own = args.step_batch_size_schedule is None and not args.decrease_batch_size_if_needed
    if is_own and batch and micro:
        divisor = f"--micro-batch-size {micro} x {data_ranks} data-parallel ranks"
        _divide(batch, micro * data_ranks, "--global-batch-size", divisor)
    own, own_micro = args.eval_global_batch_size, args.eval_micro_batch_size
    if (own or own_micro) and (own or batch) and (own_micro or micro):
        name = "--eval-micro-batch-size" if own_micro else "--micro-batch-size"
        divisor = f"{name} {own_micro or micro} x {data_ranks} data-parallel ranks"
        _divide(
            own or batch, (own_micro or micro) * data_ranks, "--eval-global-batch-size", divisor
        )


def _divide_ranks(ranks: int, flag: str | None, by: int, divisor: str) -> None:
    if flag is not None:
        _divide(ranks, by, flag, divisor)
    elif ranks % by:
        raise UserError(
            f"the launcher started {ranks} rank{'s' * (ranks > 1)}, which do{'es' * (ranks == 1)} "
            f"not divide by {divisor}, {by}: start {_around(ranks, by)}"
        )


def _divide(number: int, by: int, flag: str, divisor: str) -> None:
    if number % by:
        raise UserError(
            f"{flag} {number} does not divide by {divisor}, {by}: use {flag} {_around(number, by)}"
        )


def _around(number: int, by: int) -> str:
    below, above = number // by * by, (number // by + 1) * by
    return f"{below} or {above}" if below else f"{above}"


def _nearest_divisor(number: int, near: int) -> int:
    return min((d for d in range(1, number + 1) if number % d == 0), key=lambda d: abs(d - near))
