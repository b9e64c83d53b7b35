"""The plan of a run: everything that is counted, as one value and as JSON.

The one idea: a plan is made once from the flags; tables and JSON only show it. What a run goes
through its methods say as stages, and what they change in a figure as terms. The JSON's keys are
documented in docs/planner.md and are kept.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tst_megatron.corpora.compression.cost import ByteModelCost, cost_of_byte_model
from tst_megatron.errors import UserError
from tst_megatron.planner.activations import Recomputation
from tst_megatron.planner.balance import Balance, balance_of
from tst_megatron.planner.counts import (
    Parameters,
    PipelineStage,
    count_stages,
    whole_model,
    with_added,
)
from tst_megatron.planner.course import Course
from tst_megatron.planner.flags import assumes_gpt2, planned_args
from tst_megatron.planner.hardware import Gpu
from tst_megatron.planner.memory import Memory, MemoryOfRun
from tst_megatron.planner.pipeline import bubble, most_in_flight, num_microbatches
from tst_megatron.planner.precision import Precision
from tst_megatron.planner.traffic import Collective, Traffic, merged
from tst_megatron.planner.work import SCORES, StepTime, Work, step_time, work_of, work_of_run
from tst_megatron.runs.stages import Fact, Stage
from tst_megatron.trainer.gpt2_tokenizer import GPT2_VOCABULARY

_HOUR = 3600.0


@dataclass(frozen=True)
class Assumptions:
    """What a plan takes on trust.

    Attributes:
        mfu: share of the peak that a whole step reaches, from which hours are computed.
        efficiency: share of the peak that matrix products alone reach, in the predicted step.
        reserve: share of a GPU's memory that is not planned: CUDA's context, NCCL's buffers,
            workspaces, and what the allocator cannot use.
        storage: bytes a second that all ranks together write to a checkpoint.
    """

    mfu: float = 0.40
    efficiency: float = 0.60
    reserve: float = 0.10
    storage: float = 5e9


@dataclass(frozen=True)
class GpuPlan:
    """What each GPU of a pipeline stage holds.

    Attributes:
        stage: the pipeline rank.
        built: what was counted.
        memory: on one GPU.
        by_recomputation: activations without, with selective and with full recomputation.
        in_flight: micro-batches of a chunk that are held at once.
    """

    stage: int
    built: PipelineStage
    memory: Memory
    by_recomputation: dict[str, int]
    in_flight: int


@dataclass(frozen=True)
class StepPlan:
    """A step in one stage of the run, at the full batch size.

    Attributes:
        stage: of the run.
        steps: of the stage.
        facts: the stage's, and of every other method what it says of a stage that is not its own.
        positions: of a step.
        work: of a step.
        stage_positions: of the whole stage.
    """

    stage: Stage
    steps: int
    facts: Mapping[str, Fact]
    positions: int
    work: Work
    stage_positions: int

    @property
    def data_tokens(self) -> int:
        """That a step reads."""
        return self.positions * self.stage.tokens_a_position

    @property
    def stage_data_tokens(self) -> int:
        """That the whole stage reads."""
        return self.stage_positions * self.stage.tokens_a_position


@dataclass(frozen=True)
class RunPlan:
    """Everything that is known of a run before it runs."""

    gpu: Gpu
    num_gpus: int
    layout: dict[str, Any]
    assumptions: Assumptions
    parameters: Parameters
    gpus: tuple[GpuPlan, ...]
    steps: tuple[StepPlan, ...]
    heaviest: StepPlan
    work: Work
    totals: Mapping[str, int]
    precision: Precision
    collectives: tuple[Collective, ...]
    collectives_stage: int
    time: StepTime
    bubble: float
    balance: Balance
    notes: tuple[str, ...] = field(default=())
    setting: str = ""
    byte_model_flops: float | None = None

    @property
    def available(self) -> float:
        """Bytes of a GPU that are planned with."""
        return self.gpu.memory * (1 - self.assumptions.reserve)

    @property
    def worst(self) -> GpuPlan:
        """Of the pipeline stage whose GPUs hold most."""
        return max(self.gpus, key=lambda stage: stage.memory.total)

    @property
    def fits(self) -> bool:
        """Whether that is no more than is available."""
        return self.worst.memory.total <= self.available

    @property
    def gpu_hours_at_peak(self) -> float:
        """GPU hours if the tensor cores never waited."""
        return self.work.seconds_at_peak(self.gpu, self.precision, False) / _HOUR

    @property
    def gpu_hours(self) -> float:
        """GPU hours at the assumed utilisation."""
        return self.gpu_hours_at_peak / self.assumptions.mfu

    @property
    def predicted_mfu(self) -> float:
        """Utilisation of the predicted step."""
        ideal = self.heaviest.work.seconds_at_peak(self.gpu, self.precision, False)
        return ideal / self.num_gpus / self.time.total

    @property
    def checkpoint_bytes(self) -> int:
        """Weights and optimizer, each written once."""
        return self.parameters.total * self.precision.saved

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON's types; the keys are documented in docs/planner.md."""
        return {
            "gpu": asdict(self.gpu) | {"count": self.num_gpus},
            "layout": self.layout,
            "assumptions": asdict(self.assumptions),
            "parameters": asdict(self.parameters),
            "per_gpu": [_gpu_as_json(one) for one in self.gpus],
            "worst_rank": self.worst.built.ranks[0],
            "available_bytes": round(self.available),
            "fits": self.fits,
            "per_step": [_step_as_json(number, step) for number, step in enumerate(self.steps)],
            "run": self._run_as_json(),
            "step_time": {
                "seconds": self.time.total,
                "products": self.time.products,
                "communication": self.time.communication,
                "bubble": self.time.bubble,
                "mfu": self.predicted_mfu,
            },
            "pipeline": {
                "bubble": self.bubble,
                "work_shares": list(self.balance.shares),
                "even_layout": self.balance.layout,
            },
            "collectives": {
                "rank": self.gpus[self.collectives_stage].built.ranks[0],
                "per_step": [_collective_as_json(one, self.gpu) for one in self.collectives],
            },
            "checkpoint": {
                "bytes": self.checkpoint_bytes,
                "seconds": self.checkpoint_bytes / self.assumptions.storage,
            },
            "notes": list(self.notes),
        }

    def _run_as_json(self) -> dict[str, Any]:
        return {
            "steps": sum(step.steps for step in self.steps),
            "positions": self.positions,
            "data_tokens": self.data_tokens,
            **self.totals,
            "flops": self.work.total,
            "byte_model_flops": self.byte_model_flops,
            "gpu_hours_at_peak": self.gpu_hours_at_peak,
            "gpu_hours": self.gpu_hours,
            "hours": self.gpu_hours / self.num_gpus,
        }

    @property
    def positions(self) -> int:
        """Of the run."""
        return sum(step.stage_positions for step in self.steps)

    @property
    def data_tokens(self) -> int:
        """That the run reads."""
        return sum(step.stage_data_tokens for step in self.steps)


def make_plan(
    flags: Sequence[str], num_gpus: int, gpu: Gpu, assumptions: Assumptions = Assumptions()
) -> RunPlan:
    """Count a run.

    Args:
        flags: its command line, without ``--recipe``.
        num_gpus: the world size.
        gpu: which GPU, in which node.
        assumptions: what a plan takes on trust.

    Raises:
        UserError: the flags are wrong, do not divide, or ask for what is not counted.
    """
    with planned_args(flags, num_gpus, gpu) as args:
        course = Course.of(args)
        pipeline = with_added(args, count_stages(args), course.terms)
        return _plan(args, pipeline, course, gpu, assumptions)


def _plan(
    args: argparse.Namespace,
    pipeline: tuple[PipelineStage, ...],
    course: Course,
    gpu: Gpu,
    assumptions: Assumptions,
) -> RunPlan:
    """Everything that follows from what was built."""
    precision = Precision.of(args, gpu)
    memory = MemoryOfRun(args, precision, pipeline, course)
    traffic = Traffic(args, gpu, precision, pipeline, memory, course.terms)
    collectives = [traffic.of_stage(stage, course.heaviest) for stage in range(len(pipeline))]
    busiest = max(
        range(len(pipeline)), key=lambda s: sum(one.seconds(gpu) for one in collectives[s])
    )
    steps = _steps(args, pipeline, course)
    work = work_of_run(args, pipeline, course)
    byte_model = _byte_model(args, course)
    balance = balance_of(args, pipeline, course)
    return RunPlan(
        gpu=gpu,
        num_gpus=args.world_size,
        layout=_layout(args, precision),
        assumptions=assumptions,
        parameters=whole_model(pipeline, args),
        gpus=tuple(_gpu_plan(args, memory, *numbered) for numbered in enumerate(pipeline)),
        steps=steps,
        heaviest=steps[course.stages.index(course.heaviest)],
        work=work,
        totals=course.totals(args.seq_length),
        precision=precision,
        collectives=tuple(merged(collectives[busiest])),
        collectives_stage=busiest,
        time=step_time(args, gpu, precision, pipeline, course, collectives, assumptions.efficiency),
        bubble=bubble(args),
        balance=balance,
        notes=(
            *_notes(args),
            *_byte_model_notes(byte_model, work),
            *balance.notes,
            *course.terms.notes(args, course.stages),
        ),
        setting=course.setting,
        byte_model_flops=None if byte_model is None else byte_model.flops,
    )


def _gpu_plan(
    args: argparse.Namespace, memory: MemoryOfRun, stage: int, built: PipelineStage
) -> GpuPlan:
    return GpuPlan(
        stage,
        built,
        memory.of_stage(stage),
        memory.activations_by_recomputation(stage),
        most_in_flight(args, stage),
    )


def _steps(
    args: argparse.Namespace, pipeline: tuple[PipelineStage, ...], course: Course
) -> tuple[StepPlan, ...]:
    """A step of every stage of the run."""
    samples = args.global_batch_size
    return tuple(
        StepPlan(
            stage,
            steps,
            facts,
            samples * args.seq_length,
            work_of(args, pipeline, samples, stage, course.terms),
            stage.samples * args.seq_length,
        )
        for stage, steps, facts in zip(
            course.stages, course.steps(args), course.facts(), strict=True
        )
    )


def _layout(args: argparse.Namespace, precision: Precision) -> dict[str, Any]:
    return {
        "tensor": args.tensor_model_parallel_size,
        "pipeline": args.pipeline_model_parallel_size,
        "virtual_stages": args.virtual_pipeline_model_parallel_size or 1,
        "context": args.context_parallel_size,
        "expert": args.expert_model_parallel_size,
        "expert_tensor": args.expert_tensor_parallel_size,
        "data": args.data_parallel_size,
        "sequence_parallel": bool(args.sequence_parallel),
        "distributed_optimizer": bool(args.use_distributed_optimizer),
        "seq_length": args.seq_length,
        "micro_batch_size": args.micro_batch_size,
        "global_batch_size": args.global_batch_size,
        "micro_batches": num_microbatches(args),
        "recomputation": str(Recomputation.of(args)),
        "precision": precision.name,
    }


def _notes(args: argparse.Namespace) -> list[str]:
    notes = []
    if args.transformer_impl != "transformer_engine":
        notes.append(
            f"--transformer-impl {args.transformer_impl}: activations are counted for Transformer "
            "Engine's kernels"
        )
    if args.num_experts:
        notes.append("experts are taken to get equal numbers of positions")
    if assumes_gpt2(args):
        notes.append(
            f"the vocabulary is taken to be GPT-2's, {GPT2_VOCABULARY:,} tokens: no --vocab-file "
            "is here"
        )
    if args.step_batch_size_schedule is not None:
        notes.append("a step is counted at the full batch size, the run by its schedule")
    if args.moe_token_dispatcher_type == "flex" and args.num_experts:
        notes.append("the flex dispatcher is counted as all-to-all, which sends no less")
    return notes


def _byte_model(args: argparse.Namespace, course: Course) -> ByteModelCost | None:
    """That cut the run's text, as far as corpora or tokenizer are here: a plan needs neither."""
    try:
        return cost_of_byte_model(args, course.forms)
    except UserError:
        return None


def _byte_model_notes(cost: ByteModelCost | None, work: Work) -> Iterator[str]:
    if cost is not None:
        share = cost.flops / work.total
        yield (
            f"the text's byte model took {cost.flops:.3g} FLOPs to train, {share:.2%} of the run's "
            "operations, which come on top"
        )


def _gpu_as_json(stage: GpuPlan) -> dict[str, Any]:
    ranks = stage.built.ranks
    return {
        "rank": ranks[0],
        "ranks": [ranks[0], ranks[-1]],
        "pipeline_stage": stage.stage,
        "layers": sum(len(chunk.layers) for chunk in stage.built.chunks),
        "parameters": stage.built.parameters,
        "expert_parameters": stage.built.expert_parameters,
        "micro_batches_in_flight": stage.in_flight,
        "memory_bytes": asdict(stage.memory) | {"total": stage.memory.total},
        "activation_bytes_by_recomputation": stage.by_recomputation,
    }


def _step_as_json(number: int, step: StepPlan) -> dict[str, Any]:
    scores = step.work.by_kind.get(SCORES, 0)
    kinds = {kind: n for kind, n in step.work.by_kind.items() if n and kind != SCORES}
    if scores:
        kinds["attention"] += scores
    return {
        "stage": number,
        **step.facts,
        "steps": step.steps,
        "positions": step.positions,
        "data_tokens": step.data_tokens,
        "flops": step.work.total,
        "flops_by_kind": kinds,
        "attention_scores_flops": scores,
        "recomputed_flops": sum(step.work.again.values()),
    }


def _collective_as_json(one: Collective, gpu: Gpu) -> dict[str, Any]:
    return {
        "what": one.what,
        "kind": one.kind,
        "group": one.group.name,
        "group_size": one.group.size,
        "nodes": one.group.nodes,
        "calls": one.calls,
        "bytes_per_call": one.num_bytes,
        "nvlink_bytes": round(one.nvlink_bytes),
        "network_bytes": round(one.network_bytes),
        "seconds": one.seconds(gpu),
        "hidden_behind": one.behind or None,
    }
