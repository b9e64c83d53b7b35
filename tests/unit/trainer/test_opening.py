"""What a run says of itself, from its arguments and its stages alone."""

import argparse

import pytest

from tst_megatron.methods.events import Progress
from tst_megatron.methods.registry import add_arguments, run_of
from tst_megatron.methods.superposition.method import METHOD
from tst_megatron.trainer.memory import remember
from tst_megatron.trainer.opening import StageLines, opening
from tst_megatron.trainer.reading import text_of_run


def arguments(*flags: str, **more: object) -> argparse.Namespace:
    """Validated arguments of a run of 100 steps on mock data."""
    args = add_arguments(argparse.ArgumentParser()).parse_args(flags)
    layout = {
        **{"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 1},
        **{"expert_model_parallel_size": 1, "context_parallel_size": 1, "data_parallel_size": 4},
    }
    values = {
        **{"train_iters": 100, "train_samples": None, "global_batch_size": 8, "seq_length": 32},
        **{"micro_batch_size": 2, "step_batch_size_schedule": None, "world_size": 8},
        **{
            "mock_data": True,
            "sft": False,
            "skip_train": False,
            "consumed_train_samples": 0,
            **layout,
            **more,
        },
    }
    for name, value in values.items():
        setattr(args, name, value)
    return args


def said(*flags: str, **more: object) -> list[str]:
    args = arguments(*flags, **more)
    return [line.removeprefix("tst-megatron: ") for line in opening(args, run_of(args))]


def test_stages_are_said_in_steps_and_tokens() -> None:
    course, layout, text = said("--tst-schedule=4:0.2,2:0.1")
    assert course == (
        "100 steps: 20 of bags of 4 (20,480 tokens), then 10 of bags of 2 (5,120 tokens), then 70 "
        "of single tokens (17,920 tokens)"
    )
    assert layout == (
        "8 ranks: TP 2, PP 1, EP 1, CP 1, DP 4; micro-batch 2, global batch 8 samples of 32 "
        "positions"
    )
    assert text == "43,520 tokens of text needed: mock data"


def test_an_ordinary_run_has_one_stage() -> None:
    assert said()[0] == "100 steps: 100 of single tokens (25,600 tokens)"
    assert said(train_iters=0)[0] == "no steps: it validates alone"
    assert said(train_iters=1)[0] == "1 step: 1 of single tokens (256 tokens)"


def test_a_run_that_only_validates_needs_no_text() -> None:
    course, _, text = said("--tst-bag-size=4", skip_train=True)
    assert course == "no steps: it validates alone"
    assert text == "0 tokens of text needed: mock data"


def test_batches_that_grow() -> None:
    more = {"step_batch_size_schedule": "0:4 640:8", "global_batch_size": None}
    course, layout, _ = said(**more)
    assert "global batch 4 to 8 samples" in layout
    # 5 steps of 4 samples, then 95 of 8.
    assert course == f"100 steps: 100 of single tokens ({(20 + 95 * 8) * 32:,} tokens)"


def test_an_end_that_is_open_is_said_to_be() -> None:
    course = said("--tst-schedule=auto:4:0.1,0.5", eval_iters=1, eval_interval=1)[0]
    assert course.startswith("100 steps: 50 of bags of 4 (51,200 tokens), then 50 of single")
    assert course.endswith("; where a stage ends is decided as the run goes")


def test_an_end_that_an_earlier_run_has_set_is_not_open() -> None:
    """A shorter run has the text of the longer one whose checkpoint it goes on from."""
    longer = arguments("--tst-schedule=4:20steps")
    remember(longer, run_of(longer))
    args = arguments("--tst-schedule=4:20steps", train_iters=40)
    run = run_of(args)
    (part,) = run.parts
    part.resume(args, METHOD.remembered(longer), 30)
    assert sum(text.samples for text in text_of_run(run, 40, 32)) > 40 * 8
    assert "decided" not in opening(args, run)[0]


def test_text_that_is_there_is_counted(corpus) -> None:
    data = {"data_path": [str(corpus.prefix)], "split": "1,0,0", "data_args_path": None}
    assert said(mock_data=False, **data)[2] == (
        f"25,600 tokens of text needed, {corpus.num_tokens:,} there, in 1 corpus"
    )
    nothing = {"data_path": None, "train_data_path": None, "valid_data_path": None}
    more = {"test_data_path": None, "per_split_data_args_path": None}
    assert said(mock_data=False, **{**data, **nothing, **more})[2].endswith("no corpus is named")
    far = {**data, "data_path": ["1", "s3://a/b", "1", str(corpus.prefix)]}
    assert said(mock_data=False, **far)[2] == (
        "25,600 tokens of text needed: 2 corpora, some in object storage, where nothing is counted"
    )


class Counter:
    """How far a run is."""

    def __init__(self, args: argparse.Namespace, step: int) -> None:
        self._args = args
        self.go_to(step)

    def go_to(self, step: int) -> None:
        stages = run_of(self._args).stages
        self.now = Progress(step, 0, stages[0], samples=8 * step)
        self._args.consumed_train_samples = 8 * step


@pytest.mark.parametrize(
    ("steps", "lines"),
    [
        # The opening has said what a run begins with.
        ((0, 1, 19), []),
        (
            (0, 19, 20, 21, 99),
            ["stage 1 begins with step 21: single tokens, 80 steps, 20,480 tokens"],
        ),
        ((3, 4), ["stage 0 goes on at step 4: bags of 4, 20 steps, 20,480 tokens"]),
        ((20, 21), ["stage 1 goes on at step 21: single tokens, 80 steps, 20,480 tokens"]),
    ],
)
def test_a_stage_is_said_once_as_it_begins(steps: tuple[int, ...], lines: list[str]) -> None:
    args = arguments("--tst-bag-size=4", "--tst-step-ratio=0.2")
    run, counter, heard = run_of(args), Counter(args, steps[0]), []
    listener = StageLines(args, run, counter, heard.append)  # type: ignore[arg-type]
    for step in steps:
        counter.go_to(step)
        listener.stepping(run.stages[0 if step < 20 else 1], None)
    assert heard == [f"tst-megatron: {line}" for line in lines]
