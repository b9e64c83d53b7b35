"""What a run says of itself: as it starts what it will do, and a line as each stage begins.

Asked of the run's methods, in words that are no method's: stages, steps, tokens.
"""

import argparse
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any

from tst_megatron.corpora.budget import tokens_of
from tst_megatron.corpora.sources import sources_of_split
from tst_megatron.methods.events import Listener
from tst_megatron.methods.method import Run
from tst_megatron.report.formats import count
from tst_megatron.runs.stages import Stage, data_tokens, stage_index
from tst_megatron.stock.batch_sizes import BatchSizes
from tst_megatron.trainer.progress import ProgressCounter

_MARK = "tst-megatron:"


def opening(args: argparse.Namespace, run: Run) -> list[str]:
    """What a run will do, a line each: its stages, its layout, its text.

    Args:
        args: Megatron's validated arguments.
        run: what its methods make of it.
    """
    lines = (_course(args, run), _layout(args), _text(args, run))
    return [f"{_MARK} {line}" for line in lines]


def _course(args: argparse.Namespace, run: Run) -> str:
    stages = run.stages
    if args.skip_train or not any(stage.samples for stage in stages):
        return "no steps: it validates alone"
    steps = _steps_of(args, stages)
    parts = [
        f"{steps[index]:,} of {stage.name} ({count(_tokens(args, stage))} tokens)"
        for index, stage in enumerate(stages)
        if stage.samples
    ]
    line = f"{_in_words(sum(steps))}: {', then '.join(parts)}"
    if any(part.ends_are_open for part in run.parts):
        line += "; where a stage ends is decided as the run goes"
    return line


def _steps_of(args: argparse.Namespace, stages: Sequence[Stage]) -> list[int]:
    """Steps of every stage."""
    sizes = BatchSizes.from_args(args)
    ends = accumulate((stage.samples for stage in stages), initial=0)
    return [then - now for now, then in pairwise(map(sizes.steps_of_samples, ends))]


def _in_words(steps: int) -> str:
    return f"{steps:,} step{'' if steps == 1 else 's'}"


def _tokens(args: argparse.Namespace, stage: Stage) -> int:
    return data_tokens([stage], stage.samples, int(args.seq_length))


def _layout(args: argparse.Namespace) -> str:
    sizes = {
        "TP": args.tensor_model_parallel_size,
        "PP": args.pipeline_model_parallel_size,
        "EP": args.expert_model_parallel_size,
        "CP": args.context_parallel_size,
        "DP": args.data_parallel_size,
    }
    ranks = "1 rank" if args.world_size == 1 else f"{args.world_size:,} ranks"
    batches = [size for _, size in BatchSizes.from_args(args).changes]
    batch = f"{batches[0]:,}" if len(batches) == 1 else f"{batches[0]:,} to {batches[-1]:,}"
    return (
        f"{ranks}: {', '.join(f'{name} {size}' for name, size in sizes.items())}; micro-batch "
        f"{args.micro_batch_size:,}, global batch {batch} samples of {args.seq_length:,} positions"
    )


def _text(args: argparse.Namespace, run: Run) -> str:
    needed = 0 if args.skip_train else sum(_tokens(args, stage) for stage in run.stages)
    line = f"{count(needed)} tokens of text needed"
    if args.mock_data:
        return f"{line}: mock data"
    if args.sft:
        return f"{line}: conversations, which are not counted"
    sources = sources_of_split(args, "train")
    if not sources:
        return f"{line}: no corpus is named"
    corpora = "1 corpus" if len(sources) == 1 else f"{len(sources):,} corpora"
    if any(source.is_remote for source in sources):
        return f"{line}: {corpora}, some in object storage, where nothing is counted"
    return f"{line}, {count(sum(map(tokens_of, sources)))} there, in {corpora}"


class StageLines(Listener):
    """Says which stage begins, on the rank that has the log.

    Args:
        args: Megatron's validated arguments.
        run: what its methods make of it.
        progress: of the run.
        say: prints a line in the log.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        run: Run,
        progress: ProgressCounter,
        say: Callable[[str], None],
    ) -> None:
        self._args = args
        self._run = run
        self._progress = progress
        self._say = say
        # What a run begins with has been said by its opening.
        self._index: int | None = None

    def stepping(self, stage: Stage, optimizer: Any) -> None:
        """A line at the first step of a stage, and at the first of a run that goes on."""
        stages = self._run.stages
        index = stage_index(stages, self._args.consumed_train_samples)
        before, self._index = self._index, index
        step = self._progress.now.step
        if index == before or not step:
            return
        begins = f"stage {index} begins with" if before is not None else f"stage {index} goes on at"
        steps = _in_words(_steps_of(self._args, stages)[index])
        tokens = count(_tokens(self._args, stage))
        self._say(f"{_MARK} {begins} step {step + 1:,}: {stage.name}, {steps}, {tokens} tokens")
