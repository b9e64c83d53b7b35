"""The same run in several layouts: losses and gradient norms are those of one rank."""

import pytest
from trainer import TINY, Job, run, run_all

LAYOUTS = {
    "one rank": (1, ()),
    "data": (2, ("--use-distributed-optimizer", "--overlap-grad-reduce", "--overlap-param-gather")),
    "tensor": (2, ("--tensor-model-parallel-size=2",)),
    "pipeline": (2, ("--pipeline-model-parallel-size=2",)),
}


@pytest.fixture(scope="module")
def ledgers(corpus, tmp_path_factory):
    root = tmp_path_factory.mktemp("layouts")
    # Megatron draws the weights of every layout anew: all start from those of one checkpoint.
    start = Job(
        root / "start",
        (
            *TINY,
            *corpus.flags,
            "--exit-interval=1",
            f"--save={root / 'start'}",
            "--save-interval=1",
        ),
    )
    run(start)
    flags = (
        *(*TINY, *corpus.flags, "--tst-schedule=4:0.3,2:0.2", "--tst-fixed-validation"),
        *(f"--load={root / 'start'}", "--finetune", "--eval-interval=2"),
    )
    jobs = [
        Job(root / name.replace(" ", "-"), (*flags, *own), num_ranks)
        for name, (num_ranks, own) in LAYOUTS.items()
    ]
    results = run_all(jobs)
    return {name: result.ledger for name, result in zip(LAYOUTS, results, strict=True)}


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "one rank"])
def test_a_layout_trains_as_one_rank_does(ledgers, layout: str) -> None:
    one, several = ledgers["one rank"], ledgers[layout]
    assert [line["bag_size"] for line in several.steps] == [4, 4, 4, 2, 2, 1, 1, 1, 1, 1]
    for mine, theirs in zip(several.steps, one.steps, strict=True):
        assert mine["loss_name"] == theirs["loss_name"]
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
        assert mine["data_tokens"] == theirs["data_tokens"]
    for mine, theirs in zip(several.validations, one.validations, strict=True):
        losses = [name for name in ("next_token_loss", "bag_loss") if name in theirs]
        assert [mine[name] for name in losses] == pytest.approx(
            [theirs[name] for name in losses], rel=1e-5
        )
        assert ("bag_loss" in mine) == ("bag_loss" in theirs)
