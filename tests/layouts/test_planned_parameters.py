"""The planner's counts against the model that a GPU would train: Transformer Engine's modules.

The planner builds Megatron's own modules, which need no GPU. That either has the same parameters on
every rank is shown here.
"""

from typing import Any

import pytest
from fake_ranks import NO_FILES, ON_META, TRANSFORMER_ENGINE, megatron_args, pretended_gpu
from layouts import Layout
from megatron.training.argument_utils import gpt_config_from_args
from planned import built
from shapes import DENSE, MOE, Shape

from tst_megatron.planner.fake_ranks import as_rank, build_chunks

_CASES = [
    (DENSE, Layout(64)),
    (DENSE, Layout(64, tp=2, pp=4)),
    (DENSE, Layout(64, pp=4, chunks=3, flags=("--num-virtual-stages-per-pipeline-rank=3",))),
    (MOE, Layout(64, ep=8)),
    (MOE, Layout(64, tp=2, pp=2, ep=8)),
    (MOE, Layout(128, tp=2, ep=16, etp=2)),
]


def _id(case: Shape | Layout) -> str:
    return case.name if isinstance(case, Shape) else str(case)


@pytest.mark.usefixtures("transformer_engine")
@pytest.mark.parametrize("more", [(), ("--fp8-format=hybrid", "--fp8-recipe=tensorwise")])
@pytest.mark.parametrize(
    ("shape", "layout"), _CASES, ids=lambda value: getattr(value, "name", "") or str(value)
)
def test_a_rank_holds_what_is_planned(shape: Shape, layout: Layout, more: tuple[str, ...]) -> None:
    flags = (
        *(*shape.flags, *layout.all_flags, *NO_FILES, *TRANSFORMER_ENGINE, ON_META),
        *("--micro-batch-size=1", "--global-batch-size=1024", "--train-iters=100", "--lr=1e-4"),
        *("--use-distributed-optimizer", *more),
    )
    with built(flags, layout.num_ranks) as (_, stages):
        planned = [(stage.parameters, stage.expert_parameters) for stage in stages]
    with (
        pretended_gpu(with_transformer_engine=True),
        megatron_args(flags, layout.num_ranks) as args,
    ):
        for stage, expected in zip(stages, planned, strict=True):
            with as_rank(args, stage.ranks[0]):
                chunks = build_chunks(gpt_config_from_args(args))
            assert _parameters(chunks) == expected


def _parameters(chunks: list[Any]) -> tuple[int, int]:
    """Numbers on this rank, and of these the experts'."""
    named = [(name, value.numel()) for chunk in chunks for name, value in chunk.named_parameters()]
    assert any("layer_norm_weight" in name for name, _ in named), "of Transformer Engine"
    return sum(n for _, n in named), sum(n for name, n in named if ".experts." in name)
