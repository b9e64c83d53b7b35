"""What a plan of a checkpoint says of itself."""

import torch
from torch.distributed.checkpoint.metadata import TensorProperties

from tst_megatron.checkpoints.derived import Made, NewTensor, Piece, Plan, Zeros


def tensor(key: str, *contents) -> NewTensor:
    pieces = tuple(
        Piece((at, 0), (1, 3), content) for at, content in enumerate(contents or (Zeros(),))
    )
    return NewTensor(key, TensorProperties(dtype=torch.float32), (len(pieces), 3), pieces)


def plan(*tensors: NewTensor) -> Plan:
    return Plan(None, 1, tensors, {}, {})


def test_without_an_optimizer_it_is_loaded_without():
    assert plan(tensor("decoder.weight")).extra_flags == ["--no-load-optim"]
    state = tensor("optimizer.state.exp_avg.decoder.weight")
    assert plan(tensor("decoder.weight"), state).extra_flags == []


def test_what_is_alike_is_new_once():
    def one() -> torch.Tensor:
        return torch.ones(1, 3)

    alike = tensor("experts", Made(one, "the same"), Made(one, "the same"), Made(one), Zeros())
    assert plan(alike).new_bytes == 2 * 3 * 4
    (listed,) = plan(alike).listed.values()
    assert [tuple(chunk.offsets) for chunk in listed.chunks] == [(0, 0), (1, 0), (2, 0), (3, 0)]
