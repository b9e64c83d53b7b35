"""A run that goes on under another length: sample by sample the run that it was."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from counted_corpora import build, parse, tokens_of, write_corpus

from tst_megatron.corpora.budget import Budget, check_budget
from tst_megatron.errors import UserError
from tst_megatron.methods.method import Run
from tst_megatron.methods.registry import run_of
from tst_megatron.methods.superposition.method import METHOD
from tst_megatron.methods.superposition.phased_dataset import BAGS, PhasedDataset
from tst_megatron.stock.datasets import dataset_config
from tst_megatron.trainer.memory import remember
from tst_megatron.trainer.reading import reading_from_args

START_OF_B = 500_000
# Of steps of 4 samples: 40 of bags of 4, 32 of bags of 2.
STAGES = "--tst-schedule=4:10steps,2:8steps"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two corpora that no token is shared by."""
    made = tmp_path_factory.mktemp("corpora")
    rng = np.random.default_rng(5)
    write_corpus(made / "a", rng.integers(1, 40, size=500))
    write_corpus(made / "b", rng.integers(1, 80, size=400), start=START_OF_B)
    return made


DATA = {
    "one corpus": "--data-path {b}",
    "a blend with weights": "--data-path 3 {a} 7 {b}",
    "a blend by size": "--data-path {a} {b}",
}


def run_of_length(folder: Path, data: str, steps: int, *flags: str) -> argparse.Namespace:
    words = DATA[data].replace("{a}", str(folder / "a")).replace("{b}", str(folder / "b")).split()
    cache = f"--data-cache-path={folder / 'cache'}"
    return parse(*words, "--split=1,0,0", cache, f"--train-iters={steps}", STAGES, *flags)


def gone_on(args: argparse.Namespace, run: Run, step: int, then: argparse.Namespace) -> Run:
    """The run of other flags, from a checkpoint of the first."""
    remember(args, run)
    before = METHOD.remembered(
        argparse.Namespace(**json.loads(json.dumps(vars(args), default=str)))
    )
    later = run_of(then)
    (part,) = later.parts
    part.resume(then, before, step)
    return later


def data_of(args: argparse.Namespace, run: Run) -> PhasedDataset:
    return run.training_data(dataset_config(args), lambda: True)


@pytest.mark.parametrize("boundary", ["any", "document"])
@pytest.mark.parametrize("data", DATA)
def test_a_longer_run_reads_on_where_the_shorter_one_would_have(
    folder: Path, data: str, boundary: str
) -> None:
    flags = f"--tst-bag-boundary={boundary}"
    short, long = (run_of_length(folder, data, steps, flags) for steps in (40, 70))
    first = data_of(short, run_of(short))
    longer = data_of(long, gone_on(short, run_of(short), 12, long))
    assert longer.schedule.num_samples == 70 * 4
    for index in range(40 * 4):
        assert np.array_equal(tokens_of(first[index]), tokens_of(longer[index])), index
    # What is read beyond is text of its own, and read once.
    bags, single = set(), []
    for index in range(70 * 4):
        sample = longer[index]
        if BAGS in sample:
            bags.update(tokens_of(sample).tolist())
        else:
            single += tokens_of(sample)[:-1].tolist()
    assert len(single) == len(set(single)) == (70 - 18) * 4 * 8
    assert bags.isdisjoint(single)


def test_a_run_begun_at_the_longer_length_reads_others(folder: Path) -> None:
    """So that what is compared above is no accident of these corpora."""
    short, long = (run_of_length(folder, "one corpus", steps) for steps in (40, 70))
    first, other = build(short), build(long)
    assert not np.array_equal(tokens_of(first[0]), tokens_of(other[0]))


def test_it_may_be_made_longer_again_and_shorter(folder: Path) -> None:
    """As a WSD run whose decay is begun from several of its checkpoints."""
    args = {steps: run_of_length(folder, "one corpus", steps) for steps in (40, 55, 70, 30)}
    run = run_of(args[40])
    first, before = data_of(args[40], run), args[40]
    for steps in (55, 70, 30):
        run = gone_on(before, run, 20, args[steps])
        before = args[steps]
        data = data_of(before, run)
        assert sum(stage.samples for stage in run.stages) == steps * 4
        for index in range(min(steps, 40) * 4):
            assert np.array_equal(tokens_of(first[index]), tokens_of(data[index]))


@pytest.mark.parametrize(
    ("first", "then"),
    [
        # The same stages in other words, and with another batch.
        ("4:0.25,2:0.2", "4:10steps,2:8steps"),
        ("4:10steps,2:8steps", "4:1280tokens,2:512tokens"),
        ("4:10steps,2:8steps", "4:20steps,2:16steps --global-batch-size=2 --train-iters=140"),
    ],
)
def test_stages_are_compared_in_samples(folder: Path, first: str, then: str) -> None:
    short = run_of_length(folder, "one corpus", 40, f"--tst-schedule={first}")
    long = run_of_length(folder, "one corpus", 70, *f"--tst-schedule={then}".split())
    longer = data_of(long, gone_on(short, run_of(short), 12, long))
    assert longer.schedule.num_samples == 280
    assert np.array_equal(tokens_of(build(short)[150]), tokens_of(longer[150]))


def test_shares_of_a_longer_run_are_another_schedule(folder: Path) -> None:
    shares = "--tst-schedule=4:0.25,2:0.2"
    short, long = (run_of_length(folder, "one corpus", steps, shares) for steps in (40, 70))
    with pytest.raises(UserError, match="or in a run of another length --tst-schedule ") as refused:
        gone_on(short, run_of(short), 12, long)
    assert "--tst-schedule 4:10steps,2:8steps, or add --allow-schedule-change" in str(refused.value)


def test_a_run_of_nothing_but_bags_has_no_text_to_go_on_with(folder: Path) -> None:
    short = run_of_length(folder, "one corpus", 18)
    long = run_of_length(folder, "one corpus", 40)
    with pytest.raises(UserError, match="was to end in bags"):
        gone_on(short, run_of(short), 12, long)
    args = run_of_length(folder, "one corpus", 40, "--allow-schedule-change")
    (part,) = gone_on(short, run_of(short), 12, args).parts
    assert part.superposition.schedule.laid_out is None
    # With output alone superposed it reads as any run does.
    output = "--tst-superpose=output"
    short, long = (run_of_length(folder, "one corpus", steps, output) for steps in (18, 40))
    gone_on(short, run_of(short), 12, long)


def test_the_budget_is_of_the_documents_that_were_set_aside(folder: Path) -> None:
    short, long = (run_of_length(folder, "one corpus", steps) for steps in (40, 600))
    longer = gone_on(short, run_of(short), 12, long)
    found = Budget(reading_from_args(long, longer))
    # A run begun at this length would have enough for more steps: bags would have had fewer of the
    # documents.
    with pytest.raises(UserError, match=r"the stage with bag size 1 needs") as refused:
        check_budget(found)
    fitting = found.steps_that_fit(600)
    assert f"{fitting:,} of 600 steps fit" in str(refused.value)
    assert 40 < fitting < Budget(reading_from_args(long)).steps_that_fit(600)
    fits = run_of_length(folder, "one corpus", fitting)
    again = gone_on(short, run_of(short), 12, fits)
    check_budget(Budget(reading_from_args(fits, again)))
    single = [
        token
        for sample in map(data_of(fits, again).__getitem__, range(18 * 4, fitting * 4))
        for token in tokens_of(sample)[:-1].tolist()
    ]
    assert len(single) == len(set(single))
