"""The data of a switch decided while they are read: by workers, ahead, and at any step."""

from pathlib import Path

import pytest
import torch
from counted_corpora import budget_of, build, parse, tokens_of, write_corpus
from megatron.training.datasets.data_samplers import MegatronPretrainingSampler
from torch.utils.data import DataLoader

from tst_megatron.methods.superposition.phased_dataset import BAGS, PhasedDataset

AUTO = "--tst-schedule=auto:4:0.2,0.6"  # Of 40 steps of 4 samples: 8 to 24.


@pytest.fixture(scope="module")
def args(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("counted")
    prefix = write_corpus(folder / "counted", [37] * 200)
    return parse(
        *(f"--data-path={prefix}", "--split=1,0,0", f"--data-cache-path={folder / 'cache'}", AUTO)
    )


@pytest.fixture
def dataset(args) -> PhasedDataset:
    return build(args)


def test_phases_share_no_text_wherever_the_switch_is(dataset: PhasedDataset) -> None:
    read: dict[bool, set[int]] = {True: set(), False: set()}
    for switch in (8, 15, 24):
        dataset.schedule.close(switch)
        bags = [BAGS in dataset[index] for index in range(160)]
        assert bags == [True] * (4 * switch) + [False] * (160 - 4 * switch)
        for index in range(160):
            read[BAGS in dataset[index]].update(tokens_of(dataset[index]).tolist())
    assert read[True].isdisjoint(read[False])


def test_the_samples_of_a_phase_are_the_same_wherever_it_ends(dataset: PhasedDataset) -> None:
    dataset.schedule.close(8)
    first, after = tokens_of(dataset[31]), tokens_of(dataset[32 + 5])
    dataset.schedule.close(20)
    assert (tokens_of(dataset[31]) == first).all()
    assert (tokens_of(dataset[80 + 5]) == after).all()


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_workers_that_read_ahead_learn_of_the_switch(dataset, start_method: str) -> None:
    sampler = MegatronPretrainingSampler(
        total_samples=len(dataset),
        consumed_samples=0,
        micro_batch_size=4,
        data_parallel_rank=0,
        data_parallel_size=1,
    )
    loader = DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context=start_method,
    )
    batches, read = iter(loader), []
    for step in range(40):
        if step == 6:
            # Two batches a worker are on their way.
            dataset.schedule.close(6 + 4)
        read.append(next(batches))
    assert [BAGS in batch for batch in read] == [True] * 10 + [False] * 30
    for step, batch in enumerate(read):
        for index in range(4):
            mine = dataset[4 * step + index]
            assert all(torch.equal(batch[name][index], mine[name]) for name in mine)


def test_the_budget_has_text_for_the_longest_of_either_phase(args) -> None:
    samples = {stage.part.tokens_a_position: stage.samples for stage in budget_of(args).stages}
    assert samples == {4: 24 * 4, 1: 32 * 4}


def test_output_superposition_reads_no_more_than_the_run_has(args) -> None:
    own = parse(*(f"--data-path={args.data_path[0]}", "--split=1,0,0", AUTO))
    own.tst_superpose = "output"
    assert [(s.part.tokens_a_position, s.samples) for s in budget_of(own).stages] == [(1, 160)]
