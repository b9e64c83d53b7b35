"""Going on under another length: what Megatron asserts, and when it reads in another order."""

import argparse
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from counted_corpora import budget_of, parse, write_corpus
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset
from megatron.training import training

from tst_megatron.errors import UserError
from tst_megatron.stock.datasets import dataset_config
from tst_megatron.trainer.other_length import (
    check_learning_rate,
    check_order,
    learning_rate_schedule,
    steps_before,
)


def of_length(steps: int, *flags: str) -> argparse.Namespace:
    args = parse(f"--train-iters={steps}", "--lr=1e-3", "--load=runs/mine", *flags)
    # As Megatron's validation sets them.
    args.start_weight_decay = args.end_weight_decay = args.weight_decay
    if args.train_samples:
        args.train_iters = None
    return args


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--lr-decay-iters=30", "--lr-warmup-iters=5", "--min-lr=1e-4"),
        ("--lr-warmup-fraction=0.1", "--lr-decay-style=WSD", "--lr-wsd-decay-iters=4"),
        ("--train-samples=170", "--lr-warmup-samples=20", "--lr-decay-style=cosine"),
    ],
)
def test_the_schedule_is_the_one_that_megatron_makes(monkeypatch, flags) -> None:
    args = of_length(40, *flags)
    monkeypatch.setattr(training, "get_args", lambda: argparse.Namespace(**vars(args)))
    made = training.get_optimizer_param_scheduler(SimpleNamespace(param_groups=[])).state_dict()
    made.pop("num_steps")
    assert sorted(map(str, learning_rate_schedule(args).values())) == sorted(
        map(str, made.values())
    )


def test_another_learning_rate_schedule_is_told_before_megatron_asserts() -> None:
    saved = of_length(40, "--lr-warmup-iters=5")
    check_learning_rate(of_length(40, "--lr-warmup-iters=5"), saved)
    with pytest.raises(UserError, match="add --override-opt_param-scheduler") as refused:
        check_learning_rate(of_length(60, "--lr-warmup-iters=5"), saved)
    assert "samples until the end of the decay 160 and 240" in str(refused.value)
    assert "warm-up" not in str(refused.value)
    for flag in (
        *("--override-opt_param-scheduler", "--use-checkpoint-opt_param-scheduler"),
        *("--no-load-optim", "--skip-train"),
    ):
        check_learning_rate(of_length(60, flag), saved)
    # Of a Megatron that did not know it.
    del saved.lr_warmup_fraction
    check_learning_rate(of_length(40, "--lr-warmup-iters=5"), saved)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> str:
    """100 documents of 20 tokens: 62 steps of 4 samples of 8 positions, read once."""
    return write_corpus(tmp_path_factory.mktemp("counted") / "counted", [20] * 100)


def reading(corpus: str, steps: int, *flags: str) -> argparse.Namespace:
    return of_length(steps, f"--data-path={corpus}", "--split=1,0,0", *flags)


def test_the_order_is_known_from_the_budget(corpus: str, tmp_path: Path) -> None:
    """Against the indices that Megatron builds, at several epochs and either side of 80 %."""
    orders: dict[tuple[int, bool], bytes] = {}
    for steps in (10, 62, 63, 100, 111, 112, 113, 124, 125, 126, 160, 174, 175, 186):
        args = reading(corpus, steps, f"--data-cache-path={tmp_path}")
        (stage,) = budget_of(args).stages
        built = BlendedMegatronDatasetBuilder(
            GPTDataset, [steps * 4, 0, 0], lambda: True, dataset_config(args)
        ).build()[0]
        indices = (built.document_index, built.sample_index, built.shuffle_index)
        order = b"".join(np.asarray(index).tobytes() for index in indices)
        assert orders.setdefault(stage.shuffles, order) == order, steps
    assert len(orders) == len(set(orders.values())) == 5


def test_another_order_is_refused_where_it_counts_and_told_elsewhere(corpus: str, caplog) -> None:
    saved = reading(corpus, 40)
    for steps, other in ((40, False), (62, False), (63, True)):
        args = reading(corpus, steps)
        found, before = budget_of(args), steps_before(args, saved)
        assert before == (None if steps == 40 else 40)
        if before is None:
            continue
        caplog.clear()
        check_order(args, found, before, must_be_kept=False)
        assert ("another order than until now" in caplog.text) == other
        if other:
            with pytest.raises(UserError, match=r"reads the corpus .* 1\.01 times"):
                check_order(args, found, before, must_be_kept=True)


def test_a_blend_by_size_keeps_its_order(corpus: str, tmp_path: Path) -> None:
    """Megatron lays out an epoch of each of its corpora, whatever the run reads."""
    other = write_corpus(tmp_path / "other", [20] * 100)
    long = of_length(400, "--split=1,0,0", "--data-path", corpus, other)
    check_order(long, budget_of(long), 40, must_be_kept=True)


def test_lengths_are_compared_in_samples(corpus: str) -> None:
    saved = reading(corpus, 40)
    assert steps_before(reading(corpus, 20, "--global-batch-size=8"), saved) is None
    assert steps_before(reading(corpus, 40, "--global-batch-size=8"), saved) == 20
    del saved.step_batch_size_schedule
    assert steps_before(reading(corpus, 40), saved) is None
    # Evaluation alone has no length.
    for alone in (reading(corpus, 0), reading(corpus, 50, "--skip-train")):
        assert steps_before(alone, saved) is None
        assert steps_before(saved, alone) is None
        check_learning_rate(alone, saved)
