"""Small and large runs for the tests of the planner, as its flags."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tst_megatron import recipes
from tst_megatron.methods.superposition.terms import SuperpositionTerms
from tst_megatron.planner.counts import PipelineStage, count_stages
from tst_megatron.planner.course import Course
from tst_megatron.planner.flags import planned_args
from tst_megatron.planner.hardware import GPUS
from tst_megatron.runs.stages import Stage, ordinary_stage

# With everything that the recipes have, and no two sizes alike.
DENSE = (
    *("--num-layers=4", "--hidden-size=64", "--ffn-hidden-size=96", "--num-attention-heads=4"),
    *("--group-query-attention", "--num-query-groups=2", "--kv-channels=32"),
    *("--seq-length=128", "--max-position-embeddings=128", "--position-embedding-type=rope"),
    *("--padded-vocab-size=512", "--normalization=RMSNorm", "--swiglu", "--disable-bias-linear"),
    *("--untie-embeddings-and-output-weights", "--attention-dropout=0", "--hidden-dropout=0"),
    *("--bf16", "--micro-batch-size=2", "--global-batch-size=64", "--train-iters=100", "--lr=1"),
)
MOE = (
    *DENSE,
    *("--num-experts=8", "--moe-router-topk=2", "--moe-ffn-hidden-size=48", "--qk-layernorm"),
    *("--moe-router-load-balancing-type=aux_loss", "--moe-aux-loss-coeff=1e-3"),
    *("--moe-token-dispatcher-type=alltoall", "--moe-router-dtype=fp32"),
)


def recipe_flags(name: str, *more: str) -> list[str]:
    """A recipe's command line, and what follows it."""
    return recipes.expand_recipe(["--recipe", name, *more])


@contextmanager
def built(
    flags: Sequence[str], num_gpus: int = 1, gpu: str = "h100"
) -> Iterator[tuple[Any, tuple[PipelineStage, ...]]]:
    """Validated arguments, and the stages that Megatron builds from them."""
    with planned_args(flags, num_gpus, GPUS[gpu]) as args:
        yield args, count_stages(args)


def stage_of(bag_size: int) -> Stage:
    """Samples of one bag size; of one they are ordinary."""
    if bag_size == 1:
        return ordinary_stage(64)
    return Stage(f"bags of {bag_size}", 64, bag_size, facts={"bag_size": bag_size})


def course_of(*bag_sizes: int) -> Course:
    """A run with a stage of every bag size."""
    return Course(tuple(map(stage_of, bag_sizes)), SuperpositionTerms())
