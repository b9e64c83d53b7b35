"""Settings that change how a step is computed and must not change what it computes."""

import pytest
from ledgers import bag_size
from matrix import MODELS, SCHEDULE
from trainer import Job, Result, run, run_all

# Both runs of a pair start from the same weights: name -> (flags, ranks) of either.
_FULL = ("--recompute-granularity=full", "--recompute-method=uniform", "--recompute-num-layers=1")
# Two samples a step, from the eleventh sample on four: thresholds count positions. The learning
# rate is constant: Megatron turns its schedule's steps into samples by the data-parallel size.
_GROWING = (
    *("--step-batch-size-schedule=0:2 160:4", "--micro-batch-size=1"),
    *("--lr-decay-style=constant", "--lr-warmup-iters=0"),
)
_TP = ("--tensor-model-parallel-size=2",)

BITWISE = {
    "recompute-full": (((), 1), (_FULL, 1)),
    "recompute-selective": (((), 1), (("--recompute-granularity=selective",), 1)),
    "recompute-full-tp2": ((_TP, 2), ((*_TP, *_FULL), 2)),
}
CLOSE = {
    "accumulation": (((), 1), (("--micro-batch-size=1",), 1)),
    "no-accumulation": (((), 1), (("--micro-batch-size=4",), 1)),
    "growing-batch-dp2": ((_GROWING, 1), (_GROWING, 2)),
    "growing-batch-pp2": ((_GROWING, 1), ((*_GROWING, "--pipeline-model-parallel-size=2"), 2)),
}


@pytest.fixture(scope="module")
def results(corpus, tmp_path_factory) -> dict[tuple[tuple[str, ...], int], Result]:
    root = tmp_path_factory.mktemp("settings")
    start = root / "start"
    save = (f"--save={start}", "--save-interval=3", "--exit-interval=3")
    run(Job(start, (*MODELS["dense"], *corpus.flags, *save)))
    jobs: dict[tuple[tuple[str, ...], int], Job] = {}
    for pair in (BITWISE | CLOSE).values():
        for own, num_ranks in pair:
            flags = (*MODELS["dense"], *corpus.flags, f"--load={start}", "--finetune", SCHEDULE)
            if set(_GROWING) <= set(own):
                flags = tuple(flag for flag in flags if "global-batch-size" not in flag)
            jobs.setdefault((own, num_ranks), Job(root / str(len(jobs)), (*flags, *own), num_ranks))
    return dict(zip(jobs, run_all(list(jobs.values())), strict=True))


@pytest.mark.parametrize("name", BITWISE)
def test_the_numbers_are_the_same(results, name: str) -> None:
    one, other = (results[key] for key in BITWISE[name])
    assert [bag_size(line) for line in one.ledger.steps] == [4, 4, 4, 2, 2, 1, 1, 1, 1, 1]
    assert other.losses == one.losses
    assert other.grad_norms == one.grad_norms


@pytest.mark.parametrize("name", CLOSE)
def test_the_numbers_are_close(results, name: str) -> None:
    one, other = (results[key] for key in CLOSE[name])
    assert [line["positions"] for line in other.ledger.steps] == [
        line["positions"] for line in one.ledger.steps
    ]
    assert other.losses == pytest.approx(one.losses, rel=1e-5)
    assert other.grad_norms == pytest.approx(one.grad_norms, rel=1e-5)


def test_a_growing_batch_is_counted(results) -> None:
    positions = [line["positions"] for line in results[_GROWING, 1].ledger.steps]
    assert positions == [32, 64, 96, 128, 160, 224, 288, 352, 416, 480]
