"""A planned checkpoint with its layers under a number each, or along an axis.

The one idea: Megatron stacks the tensors of layers that are alike, and numbers those of layers that
differ. A layer is a chunk of its own in either, so that one becomes the other with other keys, and
an axis of length 1 less or more in front of every chunk.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace

from tst_megatron.checkpoints.derived import Copied, Made, NewTensor, Piece, Plan, Zeros
from tst_megatron.checkpoints.keys import Shard, key_of, shard_of
from tst_megatron.checkpoints.saved import Saved

_ALONE = (1,)  # The grid of an object that is in no other (``ShardedObject`` in Megatron).


def numbered(plan: Plan) -> Plan:
    """With a number a layer of the decoder; a layer without chunks has no such tensor."""
    return _changed(plan, lambda tensor: _without_axis(tensor, plan.saved), _number)


def stacked(plan: Plan, layers: int) -> Plan:
    """With an axis of layers, which are alike.

    Args:
        plan: of any form.
        layers: how many there are.
    """
    found = _changed(
        plan,
        lambda tensor: _with_axis(tensor, layers, plan.saved),
        lambda text: _stack(text, layers),
    )
    pieces: dict[str, list[Piece]] = defaultdict(list)
    for tensor in found.tensors:
        pieces[tensor.key] += tensor.pieces
    last = {tensor.key: tensor for tensor in found.tensors}
    tensors = (replace(one, pieces=tuple(pieces[key])) for key, one in last.items())
    return replace(found, tensors=tuple(tensors))


def _changed(
    plan: Plan,
    of_tensor: Callable[[NewTensor], Iterator[NewTensor]],
    of_object: Callable[[str], str],
) -> Plan:
    return replace(
        plan,
        tensors=tuple(one for tensor in plan.tensors for one in of_tensor(tensor)),
        objects={of_object(text): source for text, source in plan.objects.items()},
    )


def _without_axis(tensor: NewTensor, saved: Saved | None) -> Iterator[NewTensor]:
    key = key_of(tensor.key)
    if not key.has_layer_axis:
        yield tensor
        return
    by_layer = defaultdict(list)
    for piece in tensor.pieces:
        own = piece.offsets[1:], piece.sizes[1:]
        by_layer[piece.offsets[0]].append(Piece(*own, _of_shape(piece, own[1], saved)))
    for layer, pieces in by_layer.items():
        name = key.numbered(layer)
        yield NewTensor(name, tensor.properties, tensor.size[1:], tuple(pieces))


def _with_axis(tensor: NewTensor, layers: int, saved: Saved | None) -> Iterator[NewTensor]:
    key = key_of(tensor.key)
    if key.layer is None:
        yield tensor
        return
    pieces = tuple(
        Piece((key.layer, *one.offsets), sizes, _of_shape(one, sizes, saved))
        for one in tensor.pieces
        for sizes in [(1, *one.sizes)]
    )
    yield NewTensor(key.with_axis, tensor.properties, (layers, *tensor.size), pieces)


def _of_shape(piece: Piece, sizes: tuple[int, ...], saved: Saved | None) -> Zeros | Made:
    """What is in a piece, in another shape of as many numbers."""
    match piece.content:
        case Zeros():
            return piece.content
        case Made(make, same):
            return Made(lambda: make().view(sizes), same)
        case Copied(key, offsets):
            assert saved is not None
            return Made(
                lambda: saved.chunk_at(key, offsets, piece.sizes).view(sizes), (key, tuple(offsets))
            )


def _number(text: str) -> str:
    shard = shard_of(text)
    key = None if shard is None else key_of(shard.key)
    if shard is None or key is None or not key.has_layer_axis:
        return text
    own = Shard(key.numbered(shard.offset[0]), shard.offset[1:] or (0,), shard.shape[1:] or _ALONE)
    return str(own)


def _stack(text: str, layers: int) -> str:
    shard = shard_of(text)
    key = None if shard is None else key_of(shard.key)
    if shard is None or key is None or key.layer is None:
        return text
    is_alone = shard.shape == _ALONE and not key.has_expert_axis
    offset, grid = ((), ()) if is_alone else (shard.offset, shard.shape)
    return str(Shard(key.with_axis, (key.layer, *offset), (layers, *grid)))
