"""How evenly a pipeline's stages share the work, and where it would be cut more evenly.

The one idea: a step waits for its slowest stage. Layers need not work alike, as routed and plain
blocks do not, nor does the last stage, which has the head; so what has to be even are operations,
and not layers. Layers stay in their order, so that a split is a number of them a stage.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate

from tst_megatron.planner.activations import Recomputation
from tst_megatron.planner.counts import Chunk, PipelineStage
from tst_megatron.planner.course import Course
from tst_megatron.planner.work import work_of
from tst_megatron.stock.layer_kinds import pattern_of

_UNEVEN = 1.05
"""Times an even share, from which on a stage is worth a word."""
_WORTH = 0.02
"""Of an even share, that another split has to bring."""


@dataclass(frozen=True)
class Balance:
    """Of a pipeline.

    Attributes:
        shares: of a step's work, what each stage does.
        layout: Megatron's ``--pipeline-model-parallel-layout`` of a more even split; None where
            there is none, or none that is known.
        busiest: times an even share that its busiest stage would do.
    """

    shares: tuple[float, ...]
    layout: str | None = None
    busiest: float = 1.0

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of an uneven plan should know, in a sentence without its full stop."""
        most = max(self.shares)
        times = most * len(self.shares)
        if times < _UNEVEN:
            return ()
        found = (
            f"pipeline stage {self.shares.index(most)} does {most:.1%} of a step's work, "
            f"{times:.2f} times an even share, and the others wait for it"
        )
        if self.layout is not None:
            found += (
                f"; --pipeline-model-parallel-layout '{self.layout}' makes that {self.busiest:.2f} "
                "times: plan it, as other stages then hold other layers"
            )
        return (found,)


def balance_of(
    args: argparse.Namespace, pipeline: Sequence[PipelineStage], course: Course
) -> Balance:
    """The shares of a step in the heaviest stage of a run, with what is recomputed.

    Args:
        args: Megatron's validated arguments.
        pipeline: what was built.
        course: of the run.
    """
    of_stages = [_operations(args, stage, course) for stage in pipeline]
    whole = sum(of_stages)
    shares = tuple(work / whole for work in of_stages)
    # Of more chunks a stage, or of a hybrid pattern, Megatron says it otherwise; and a count of
    # layers that are recomputed a chunk is not of layers that move.
    is_plain = all(len(stage.chunks) == 1 for stage in pipeline) and pattern_of(args) is None
    if len(pipeline) == 1 or not is_plain or Recomputation.of(args).method == "block":
        return Balance(shares)
    layers = [
        _operations(args, _alone(stage, Chunk((layer,), first_layer=number)), course)
        for stage in pipeline
        for number, layer in stage.chunks[0].numbered_layers
    ]
    last = pipeline[-1]
    head = _operations(args, _alone(last, replace(last.chunks[0], layers=())), course)
    most, split = even_split([*layers[:-1], layers[-1] + head], len(pipeline))
    busiest = most / whole * len(pipeline)
    if busiest > max(shares) * len(pipeline) - _WORTH:
        return Balance(shares)
    return Balance(shares, _layout(split), busiest)


def even_split(works: Sequence[int], stages: int) -> tuple[int, tuple[int, ...]]:
    """The work of the busiest stage, and how many pieces in a row each takes, so that it is least.

    Args:
        works: of the pieces, in order; as many as stages at least.
        stages: how many there are, each of which takes one at least.
    """
    sums = [0, *accumulate(works)]

    @cache
    def best(begin: int, left: int) -> tuple[int, tuple[int, ...]]:
        """The most that a stage has of the pieces from one on, and how many each takes."""
        if left == 1:
            return sums[-1] - sums[begin], (len(works) - begin,)
        found = []
        for end in range(begin + 1, len(works) - left + 2):
            most, rest = best(end, left - 1)
            found.append((max(sums[end] - sums[begin], most), (end - begin, *rest)))
        return min(found)

    return best(0, stages)


def _alone(stage: PipelineStage, chunk: Chunk) -> PipelineStage:
    return PipelineStage(stage.ranks, (chunk,))


def _operations(args: argparse.Namespace, stage: PipelineStage, course: Course) -> int:
    work = work_of(args, [stage], args.global_batch_size, course.heaviest, course.terms)
    return work.total + sum(work.again.values())


def _layout(split: Sequence[int]) -> str:
    """As Megatron writes it: embedding, layers and the loss, in stages."""
    stages = [f"t*{number}" for number in split]
    return f"E{'|'.join(stages)}L"
