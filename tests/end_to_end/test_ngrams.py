"""Hashed n-grams in Megatron's trainer: alone, in bags, packed, and in a model that grows."""

from pathlib import Path

import pytest
import torch
from saved import parameters
from trainer import TINY, Job, Result, attempt, lines, run, run_all

TABLES = "embedding.ngram_embeddings.weight"
KEPT = (*TINY, "--fixed-validation", "--save-interval=5")
NGRAMS = (*KEPT, "--ngram-rows=50", "--ngram-orders=2-4")
IN_BAGS = (
    *(*NGRAMS, "--tst-bag-size=2", "--tst-step-ratio=0.4", "--mtp-num-layers=1"),
    *("--mod-capacity=0.5", "--mod-parts=4", "--use-distributed-optimizer"),
)
PACKED = (*NGRAMS, "--dataloader-inter-document-masking", "--train-iters=4")
RUNS = {
    "plain": KEPT,
    "n-grams": NGRAMS,
    "in bags": IN_BAGS,
    "packed": PACKED,
    "packed one by one": (*PACKED, "--micro-batch-size=1"),
}


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory) -> dict[str, Result]:
    folder = tmp_path_factory.mktemp("runs")
    jobs = [
        Job(folder / name, (*flags, *corpus.flags, f"--save={folder / name / 'saved'}"))
        for name, flags in RUNS.items()
    ]
    return dict(zip(RUNS, run_all(jobs), strict=True))


def folder_of(result: Result) -> Path:
    return result.ledger_file.parent / "saved"


def test_a_run_begins_as_the_one_without(runs) -> None:
    """Bit for bit, in its first losses: the first step's learning rate is 0."""
    plain, ours = (runs[name] for name in ("plain", "n-grams"))
    assert plain.losses[:2] == ours.losses[:2]
    assert plain.losses[2] != ours.losses[2]
    (method,) = lines(ours, "header")[0]["methods"]
    assert method["facts"] == {"ngram_rows": 50, "ngram_orders": "2,3,4"}
    before, after = (lines(one, "header")[0]["parameters"] for one in (plain, ours))
    assert after["total"] - before["total"] == 150 * 32
    assert after["active"] == before["active"]
    assert [line["flops"] for line in lines(plain, "step")] == [
        line["flops"] for line in lines(ours, "step")
    ]
    assert "in 150 rows that begin at zero: 4,800 parameters" in ours.output
    assert torch.count_nonzero(parameters(folder_of(ours), 10)[TABLES]) > 0


def test_a_resumed_run_is_the_unbroken_one(runs, corpus, tmp_path: Path) -> None:
    unbroken = runs["in bags"]
    names = [method["name"] for method in lines(unbroken, "header")[0]["methods"]]
    assert names == ["superposition", "depths", "ngrams"]
    start = (f"--load={folder_of(unbroken)}", "--ckpt-step=5")
    save = f"--save={tmp_path / 'saved'}"
    result = run(Job(tmp_path, (*IN_BAGS, *corpus.flags, *start, save)))
    assert result.losses == unbroken.losses[5:]
    wanted = parameters(folder_of(unbroken), 10)
    for key, value in parameters(tmp_path / "saved", 10).items():
        assert torch.equal(value, wanted[key]), key


def test_packed_samples_are_those_that_come_one_by_one(runs) -> None:
    two, one = (runs[name].losses for name in ("packed", "packed one by one"))
    # Sums in another order, in float32.
    assert two == pytest.approx(one, rel=1e-5)


def test_a_grown_model_keeps_its_tables(runs, corpus, tmp_path: Path) -> None:
    grown = (*NGRAMS, "--num-layers=4", "--grow=stack", "--train-iters=11")
    start, save = f"--load={folder_of(runs['n-grams'])}", f"--save={tmp_path / 'saved'}"
    still = ("--lr=0", "--override-opt_param-scheduler")
    result = run(Job(tmp_path, (*grown, *still, *corpus.flags, start, save)))
    assert len(result.losses) == 11
    small, large = (
        parameters(*of) for of in ((folder_of(runs["n-grams"]), 10), (tmp_path / "saved", 11))
    )
    assert torch.equal(small[TABLES], large[TABLES])


def test_what_cannot_be_is_one_sentence(runs, corpus, tmp_path: Path) -> None:
    with_them, without = (f"--load={folder_of(runs[name])}" for name in ("n-grams", "plain"))
    grow = ("--num-layers=4", "--grow=stack", "--train-iters=11")
    for flags, says in (
        ((*KEPT, with_them), "has tables of n-grams, which this run has not: give --ngram-rows 50"),
        ((*NGRAMS, without), "has no tables of n-grams, as it was trained without --ngram-rows"),
        ((*NGRAMS, "--ngram-rows=51", with_them), "with 50 rows for lengths 2,3,4, and this run"),
        ((*NGRAMS, *grow, without), "has no tables of n-grams"),
        ((*KEPT, *grow, with_them), "has tables of n-grams, which this run has not"),
        ((*KEPT, "--ngram-orders=2"), "--ngram-orders without --ngram-rows"),
    ):
        refused = attempt(tmp_path, (*flags, *corpus.flags))
        assert refused.code == 2, refused.output[-2000:]
        assert says in refused.output, refused.output[-2000:]
        assert "Traceback" not in refused.output
