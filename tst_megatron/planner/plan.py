"""The plan of a run: everything that is counted, as one value and as JSON.

The one idea: a plan is made once from the flags; tables and JSON only show it. The JSON's keys are
documented in docs/planner.md and are kept.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tst_megatron.planner.activations import Recomputation
from tst_megatron.planner.counts import Parameters, Stage, count_stages, whole_model
from tst_megatron.planner.flags import planned_args
from tst_megatron.planner.hardware import Gpu
from tst_megatron.planner.memory import Memory, MemoryOfRun
from tst_megatron.planner.pipeline import bubble, most_in_flight, num_microbatches
from tst_megatron.planner.precision import Precision
from tst_megatron.planner.progress import RunStage, run_stages
from tst_megatron.planner.timing import StepTime, step_time
from tst_megatron.planner.traffic import Collective, Traffic, merged
from tst_megatron.planner.work import SCORES, Work, work_of

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
class StagePlan:
    """A pipeline stage: what each of its GPUs holds.

    Attributes:
        stage: the pipeline rank.
        built: what was counted.
        memory: on one GPU.
        by_recomputation: activations without, with selective and with full recomputation.
        in_flight: micro-batches of a chunk that are held at once.
    """

    stage: int
    built: Stage
    memory: Memory
    by_recomputation: dict[str, int]
    in_flight: int


@dataclass(frozen=True)
class StepPlan:
    """A step in one stage of the schedule, at the full batch size.

    Attributes:
        run: the stage.
        positions: of a step.
        work: of a step.
        run_positions: of the whole stage.
    """

    run: RunStage
    positions: int
    work: Work
    run_positions: int

    @property
    def data_tokens(self) -> int:
        """That a step reads."""
        return self.positions * self.run.tokens_per_position

    @property
    def run_data_tokens(self) -> int:
        """That the whole stage reads."""
        return self.run_positions * self.run.tokens_per_position


@dataclass(frozen=True)
class Plan:
    """Everything that is known of a run before it runs."""

    gpu: Gpu
    num_gpus: int
    layout: dict[str, Any]
    assumptions: Assumptions
    parameters: Parameters
    stages: tuple[StagePlan, ...]
    steps: tuple[StepPlan, ...]
    work: Work
    precision: Precision
    collectives: tuple[Collective, ...]
    collectives_stage: int
    time: StepTime
    bubble: float
    notes: tuple[str, ...] = field(default=())

    @property
    def available(self) -> float:
        """Bytes of a GPU that are planned with."""
        return self.gpu.memory * (1 - self.assumptions.reserve)

    @property
    def worst(self) -> StagePlan:
        """The stage whose GPUs hold most."""
        return max(self.stages, key=lambda stage: stage.memory.total)

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
        ideal = self.steps[-1].work.seconds_at_peak(self.gpu, self.precision, False)
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
            "per_gpu": [_stage_as_json(stage) for stage in self.stages],
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
            "pipeline": {"bubble": self.bubble},
            "collectives": {
                "rank": self.stages[self.collectives_stage].built.ranks[0],
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
            "steps": sum(step.run.steps for step in self.steps),
            "positions": self.positions,
            "data_tokens": self.data_tokens,
            "superposed_data_tokens": self.superposed_data_tokens,
            "flops": self.work.total,
            "gpu_hours_at_peak": self.gpu_hours_at_peak,
            "gpu_hours": self.gpu_hours,
            "hours": self.gpu_hours / self.num_gpus,
        }

    @property
    def positions(self) -> int:
        """Of the run."""
        return sum(step.run_positions for step in self.steps)

    @property
    def data_tokens(self) -> int:
        """That the run reads."""
        return sum(step.run_data_tokens for step in self.steps)

    @property
    def superposed_data_tokens(self) -> int:
        """Of these, in stages of bags."""
        return sum(step.run_data_tokens for step in self.steps if step.run.bag_size > 1)


def make_plan(
    flags: Sequence[str], num_gpus: int, gpu: Gpu, assumptions: Assumptions = Assumptions()
) -> Plan:
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
        runs = run_stages(args)
        stages = count_stages(args)
        return plan_of(args, stages, runs, gpu, assumptions)


def plan_of(
    args: argparse.Namespace,
    stages: tuple[Stage, ...],
    runs: tuple[RunStage, ...],
    gpu: Gpu,
    assumptions: Assumptions,
) -> Plan:
    """Everything that follows from what was built.

    Args:
        args: Megatron's validated arguments.
        stages: what was built.
        runs: the stages of the schedule.
        gpu: which GPU, in which node.
        assumptions: what a plan takes on trust.
    """
    precision = Precision.of(args, gpu)
    memory = MemoryOfRun(args, precision, stages, [run.bag_size for run in runs])
    traffic = Traffic(args, gpu, precision, stages, memory)
    bag_size = max(run.tokens_per_position for run in runs)
    collectives = [traffic.of_stage(stage, bag_size) for stage in range(len(stages))]
    busiest = max(range(len(stages)), key=lambda s: sum(one.seconds(gpu) for one in collectives[s]))
    samples = args.global_batch_size
    return Plan(
        gpu=gpu,
        num_gpus=args.world_size,
        layout=_layout(args, precision),
        assumptions=assumptions,
        parameters=whole_model(stages, args),
        stages=tuple(
            StagePlan(
                stage,
                built,
                memory.of_stage(stage),
                memory.activations_by_recomputation(stage),
                most_in_flight(args, stage),
            )
            for stage, built in enumerate(stages)
        ),
        steps=tuple(
            StepPlan(
                run,
                samples * args.seq_length,
                work_of(args, stages, samples),
                run.samples * args.seq_length,
            )
            for run in runs
        ),
        work=work_of(args, stages, sum(run.samples for run in runs)),
        precision=precision,
        collectives=tuple(merged(collectives[busiest])),
        collectives_stage=busiest,
        time=step_time(args, gpu, precision, stages, collectives, assumptions.efficiency),
        bubble=bubble(args),
        notes=tuple(_notes(args)),
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
    if args.step_batch_size_schedule is not None:
        notes.append("a step is counted at the full batch size, the run by its schedule")
    if args.moe_token_dispatcher_type == "flex" and args.num_experts:
        notes.append("the flex dispatcher is counted as all-to-all, which sends no less")
    return notes


def _stage_as_json(stage: StagePlan) -> dict[str, Any]:
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
        "bag_size": step.run.bag_size,
        "steps": step.run.steps,
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
