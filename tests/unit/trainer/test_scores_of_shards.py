"""How likely ids are by a vocabulary in shards, and which rank reads which row."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from tst_megatron.evaluation.answerer import Row
from tst_megatron.trainer.dealing import Table, deal
from tst_megatron.trainer.megatron_answerer import score_ids

K, V, PADDED, TP = 40, 21, 32, 4
"""Of four shards of 8 rows the third has padding, and the last has nothing else."""


def logits() -> torch.Tensor:
    """Two ids of different shards share a place's maximum; padding is above all."""
    values = torch.randn(K, PADDED, generator=torch.Generator().manual_seed(3)) * 5
    values[:, V:] = 100.0
    values[: K // 2, [2, 13]] = 30.0
    return values


def targets() -> torch.Tensor:
    drawn = torch.randint(0, V, (K,), generator=torch.Generator().manual_seed(4))
    drawn[:4] = torch.tensor([2, 13, 2, 13])
    drawn[-8:] = logits()[-8:, :V].argmax(dim=1)
    return drawn


def of_rank(rank: int, folder: str) -> None:
    store = dist.FileStore(f"{folder}/store", TP)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=TP)
    width = PADDED // TP
    own = logits()[:, rank * width :][:, :width].contiguous()
    found = score_ids(own, targets(), rank * width, V, dist.group.WORLD)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_shards_give_the_softmax_of_all_without_padding(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(
        of_rank, args=(str(tmp_path),), nprocs=TP, start_method="fork"
    )
    values = logits()[:, :V].double().numpy()
    wanted = targets().numpy()
    log_sums = np.logaddexp.reduce(values, axis=1)
    expected = values[np.arange(K), wanted] - log_sums
    likeliest = values.argmax(axis=1) == wanted
    assert 8 < likeliest.sum() < K - 8
    assert likeliest[:4].tolist() == [True, False, True, False]
    for rank in range(TP):
        found, is_likeliest = torch.load(tmp_path / f"{rank}.pt")
        assert found.numpy() == pytest.approx(expected, abs=1e-5)
        assert (is_likeliest.numpy() == 1).tolist() == likeliest.tolist()


@pytest.mark.parametrize(
    "table",
    [
        Table(ranks=1, batch_size=3, most_batches=1, group=1, multiple=1, longest=16),
        Table(ranks=3, batch_size=2, most_batches=8, group=4, multiple=4, longest=18),
    ],
)
def test_every_row_is_read_once_in_rounds_of_one_shape(table: Table) -> None:
    draw = np.random.default_rng(7)
    rows = []
    for _ in range(101):
        ids = tuple(draw.integers(0, 4, draw.integers(2, table.longest + 2)).tolist())
        rows.append(Row(ids, int(draw.integers(1, len(ids)))))
    asked: Counter[tuple[int, int, int]] = Counter()
    read: Counter[tuple[int, ...]] = Counter()
    lengths = []
    for one in deal(rows, table):
        (number,) = {len(batches) for batches in one.batches}
        assert len(one.batches) == table.ranks
        assert 0 < number <= table.most_batches
        assert number % table.group == 0
        lengths.append(one.length)
        for batch in (batch for batches in one.batches for batch in batches):
            assert len(batch.inputs) <= table.batch_size
            read.update(batch.inputs)
            assert all(len(ids) <= one.length for ids in batch.inputs)
            for question in batch.questions:
                row, ids = rows[question.place], batch.inputs[question.row]
                assert ids == row.inputs
                assert row.ids[question.position + 1] == question.target
                asked[question.place, question.position, question.target] += 1
    assert set(read.values()) == {1}
    assert set(read) == {row.inputs for row in rows}
    assert set(asked.values()) == {1}
    assert len(asked) == sum(row.scored for row in rows)
    assert lengths == sorted(lengths, reverse=True)
    assert all(length % table.multiple == 0 or length == table.longest for length in lengths)
