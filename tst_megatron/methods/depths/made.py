"""Routers in a checkpoint that is made of another model's.

The one idea: what makes it copies a layer with all that is in it, its router too. Which blocks are
routed is for the run's flags to say: a router that a block has not now is left out, and one that it
has not brought along is drawn, as in a run from scratch.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from tst_megatron.checkpoints.derived import Made, NewTensor, Piece, Plan, Zeros
from tst_megatron.checkpoints.keys import key_of
from tst_megatron.checkpoints.numbered import numbered, stacked
from tst_megatron.methods.depths import flags
from tst_megatron.methods.depths.router import first_numbers
from tst_megatron.methods.depths.settings import Routing
from tst_megatron.stock.layer_kinds import are_numbered

_ROUTER = "depth_router."
_ZEROS = Zeros()


def complete(plan: Plan, args: argparse.Namespace) -> Plan:
    """The plan with a router in every routed block, and in no other.

    Args:
        plan: with those that the blocks brought along, if any.
        args: Megatron's validated arguments.
    """
    routing = Routing.of(args) if flags.is_on(args) else None
    if routing is None and not any(_is_router(tensor) for tensor in plan.tensors):
        return plan
    plan = numbered(plan)
    by_block: dict[int, list[NewTensor]] = defaultdict(list)
    for tensor in plan.tensors:
        layer = key_of(tensor.key).layer
        if layer is not None:
            by_block[layer + 1].append(tensor)
    brought = {block for block, own in by_block.items() if any(map(_is_router, own))}
    blocks = set() if routing is None else set(routing.blocks)
    kept = [
        tensor
        for tensor in plan.tensors
        if not _is_router(tensor) or (key_of(tensor.key).layer or 0) + 1 in blocks
    ]
    drawn = [
        tensor
        for block in sorted(blocks - brought)
        if routing is not None
        for tensor in _drawn(args, routing, block, by_block[block])
    ]
    if not getattr(args, "rank", 0):
        print(f"tst-megatron: {_in_words(brought, blocks)}", flush=True)
    plan = replace(plan, tensors=(*kept, *drawn))
    if routing is None and not are_numbered(args):
        return stacked(plan, int(args.num_layers))
    return plan


def _is_router(tensor: NewTensor) -> bool:
    return (key_of(tensor.key).name or "").startswith(_ROUTER)


def _in_words(brought: set[int], blocks: set[int]) -> str:
    """Where routers come from, and which are left out; without a full stop."""
    found = {
        "the checkpoint's in": blocks & brought,
        "new in": blocks - brought,
        "dropped of": brought - blocks,
    }
    named = [
        f"{words} block{'s' * (len(some) > 1)} {', '.join(map(str, sorted(some)))}"
        for words, some in found.items()
        if some
    ]
    return f"routers: {'; '.join(named)}"


def _drawn(
    args: argparse.Namespace, routing: Routing, block: int, beside: list[NewTensor]
) -> Iterator[NewTensor]:
    """A new router, with the states that the optimizer keeps of a parameter beside it.

    Args:
        args: Megatron's.
        routing: of the run.
        block: number of the block.
        beside: the tensors that the block has.
    """
    numbers = first_numbers(
        *(int(args.hidden_size), routing.has_predictor, args.init_method_std),
        *(int(args.seed), block),
    )
    # One whose states are those of a router's: of the optimizer of what is no expert.
    like = next(
        key.own
        for key in (key_of(tensor.key) for tensor in beside)
        if key.is_parameter and "experts." not in key.own
    )
    for tensor in beside:
        key = key_of(tensor.key)
        if key.own != like:
            continue
        dtype = tensor.properties.dtype
        for name, own in numbers.items():
            rounded = own.to(args.params_dtype).to(dtype)
            content = _ZEROS if key.is_moment else Made(partial(_itself, rounded))
            yield _beside(tensor, name, dtype, tuple(own.shape), content)
        if key.state is None:
            yield _beside(tensor, "threshold", torch.float32, (), _ZEROS)
            yield _beside(tensor, "steps", torch.int64, (), _ZEROS)


def _beside(
    tensor: NewTensor, name: str, dtype: torch.dtype, shape: tuple[int, ...], content: Zeros | Made
) -> NewTensor:
    """A router's tensor in the layer of another, of one chunk."""
    key = tensor.key.removesuffix(str(key_of(tensor.key).name)) + _ROUTER + name
    piece = Piece(tuple(0 for _ in shape), shape, content)
    return NewTensor(key, replace(tensor.properties, dtype=dtype), shape, (piece,))


def _itself(one: Tensor) -> Tensor:
    return one
