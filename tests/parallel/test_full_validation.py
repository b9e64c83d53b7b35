"""``--full-validation`` of one validation set, which Megatron alone fails over: as on one rank, and
with a test set after it.
"""

import pytest
from trainer import TINY, Job, Result, run_all

# Two short documents of the corpus are held out; of the test set as many samples are asked for as
# there are data-parallel ranks, fewer than the validation set has sequences.
FLAGS = (
    *(*TINY, "--full-validation", "--eval-micro-batch-size=1", "--eval-iters=1"),
    *("--split=800,34,166", "--train-iters=4", "--lr-wsd-decay-iters=1", "--eval-interval=2"),
    "--global-batch-size=4",
)
LAYOUTS = {
    "one rank": (1, ("--eval-global-batch-size=1",)),
    "two data-parallel ranks": (2, ("--eval-global-batch-size=2",)),
    "tensor parallel": (
        2,
        ("--eval-global-batch-size=1", "--tensor-model-parallel-size=2", "--sequence-parallel"),
    ),
    "pipeline": (2, ("--eval-global-batch-size=1", "--pipeline-model-parallel-size=2")),
}


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory) -> dict[str, Result]:
    folder = tmp_path_factory.mktemp("runs")
    jobs = [
        Job(folder / name, (*FLAGS, *flags, *corpus.flags), ranks)
        for name, (ranks, flags) in LAYOUTS.items()
    ]
    return dict(zip(LAYOUTS, run_all(jobs), strict=True))


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "one rank"])
def test_a_layout_validates_on_all_of_it(runs: dict[str, Result], layout: str) -> None:
    one, several = (runs[name].ledger.validations for name in ("one rank", layout))
    assert [line["step"] for line in several] == [line["step"] for line in one]
    for mine, theirs in zip(several, one, strict=True):
        # Layouts draw their own weights, so that losses are near and no more; text is the same.
        assert mine["next_token_loss"] == pytest.approx(theirs["next_token_loss"], rel=0.1)
        if layout != "two data-parallel ranks":
            assert [mine[name] for name in ("tokens", "bytes")] == [
                theirs[name] for name in ("tokens", "bytes")
            ]


def test_the_test_set_is_read_as_far_as_was_asked(runs: dict[str, Result]) -> None:
    for result in runs.values():
        assert "on test set" in result.output
