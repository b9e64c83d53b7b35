"""A plan under methods that it has never heard of: two of them, one after the other."""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from planned import DENSE, built

from tst_megatron.methods.terms import Terms, Together
from tst_megatron.planner import course as courses
from tst_megatron.planner.counts import whole_model, with_added
from tst_megatron.planner.course import Course
from tst_megatron.planner.hardware import GPUS
from tst_megatron.planner.memory import MemoryOfRun
from tst_megatron.planner.plan import make_plan
from tst_megatron.planner.precision import Precision
from tst_megatron.planner.traffic import Traffic
from tst_megatron.planner.work import work_of, work_of_run
from tst_megatron.runs.stages import Fact, Stage, ordinary_stage
from tst_megatron.stock.table_gradient import table_gradient_bytes

_HALF = Stage("half", 64, method="halving", facts={"share": 0.5})


class _Halving(Terms):
    """Every other layer works on half of the positions, which a router of its own chooses."""

    def layer_weights(self, args: argparse.Namespace, layer: int) -> Mapping[str, int]:
        return {"router": args.hidden_size} if layer % 2 else {}

    def layer_work(
        self, args: argparse.Namespace, stage: Stage, layer: int, ordinary: Mapping[str, int]
    ) -> Mapping[str, int]:
        if stage.method != "halving" or layer % 2 == 0:
            return ordinary
        return {kind: work if kind == "router" else work // 2 for kind, work in ordinary.items()}

    def logits_bytes(
        self, args: argparse.Namespace, stage: Stage, numbers: int, ordinary: int
    ) -> int:
        return ordinary // 2 if stage.method == "halving" else ordinary

    def notes(self, args: argparse.Namespace, stages: Sequence[Stage]) -> Sequence[str]:
        return ("half of the positions are chosen evenly",)

    @property
    def facts(self) -> Mapping[str, Fact]:
        return {"share": 1.0}


class _Adding(Terms):
    """Some of everything."""

    def layer_weights(self, args: argparse.Namespace, layer: int) -> Mapping[str, int]:
        return {"router": 1, "memory": 10}

    def batch_bytes(self, args: argparse.Namespace, stage: Stage, ordinary: int) -> int:
        return ordinary + 100

    def broadcast_bytes(self, args: argparse.Namespace, stage: Stage, ordinary: int) -> int:
        return ordinary + 1000

    def embedding_bytes(self, args: argparse.Namespace, stage: Stage, ordinary: int) -> int:
        return ordinary + 2**40

    def logits_bytes(
        self, args: argparse.Namespace, stage: Stage, numbers: int, ordinary: int
    ) -> int:
        return ordinary + numbers

    def totals(self, seq_length: int, stages: Sequence[Stage]) -> Mapping[str, int]:
        return {"positions_of_half": sum(s.samples for s in stages if s == _HALF) * seq_length}


_BOTH = Together([_Halving(), _Adding()])


def test_weights_are_added_up_and_work() -> None:
    with built(DENSE) as (args, stages):
        pipeline = with_added(args, stages, _BOTH)
        before, after = (whole_model(one, args) for one in (stages, pipeline))
        works = [work_of(args, pipeline, 64, stage, _BOTH) for stage in (ordinary_stage(64), _HALF)]
        without = work_of(args, stages, 64, ordinary_stage(64), Terms())
        run = work_of_run(args, pipeline, Course((_HALF, ordinary_stage(128)), _BOTH))
    # Of two of the four layers, and of all.
    added = {"router": 2 * 64 + 4, "memory": 4 * 10}
    assert after.by_kind == before.by_kind | added
    assert after.total == before.total + sum(added.values())
    positions = 64 * 128
    ordinary, half = (work.by_kind for work in works)
    assert ordinary == without.by_kind | {
        kind: 6 * positions * numbers for kind, numbers in added.items()
    }
    assert half["router"] == ordinary["router"]
    assert half["dense_mlp"] * 4 == ordinary["dense_mlp"] * 3
    assert run.total == works[0].total * 2 + works[1].total


def test_layers_are_numbered_through_the_whole_model() -> None:
    split = ("--pipeline-model-parallel-size=2", "--num-virtual-stages-per-pipeline-rank=2")
    with built((*DENSE, *split), 2) as (args, stages):
        numbers = [
            [number for chunk in stage.chunks for number, _ in chunk.numbered_layers]
            for stage in with_added(args, stages, Terms())
        ]
    assert numbers == [[0, 2], [1, 3]]


@pytest.mark.parametrize(("order", "logits"), [((0, 1), 6 // 2 + 1), ((1, 0), (6 + 1) / 2)])
def test_memory_goes_through_one_after_the_other(order: tuple[int, int], logits: float) -> None:
    both = [_Halving(), _Adding()]
    terms = Together([both[place] for place in order])
    with built(DENSE) as (args, stages):
        precision = Precision.of(args, GPUS["h100"])

        def memory(of: Terms, *of_run: Stage) -> Any:
            return MemoryOfRun(args, precision, stages, Course(of_run, of)).of_stage(0)

        without, half = memory(Terms(), ordinary_stage(64)), memory(terms, _HALF)
        fullest = memory(terms, _HALF, ordinary_stage(64))
    numbers = 2 * 128 * 512
    assert without.logits == 6 * numbers
    assert half.logits == logits * numbers
    assert fullest.logits == 7 * numbers
    assert half.batch == without.batch + 100
    # When the activations and the logits are gone.
    table = half.activations + half.logits + half.transient
    assert table == 2**40 + table_gradient_bytes(args, 1)


def test_the_broadcast_goes_through_them() -> None:
    split = ("--tensor-model-parallel-size=2", "--sequence-parallel")
    with built((*DENSE, *split), 2) as (args, stages):
        precision = Precision.of(args, GPUS["h100"])
        sizes = []
        for terms in (Terms(), _BOTH):
            memory = MemoryOfRun(args, precision, stages, Course((_HALF,), terms))
            traffic = Traffic(args, GPUS["h100"], precision, stages, memory, terms)
            (batch,) = (one for one in traffic.of_stage(0, _HALF) if one.what == "batch")
            sizes.append(batch.num_bytes)
    assert sizes[1] == sizes[0] + 1000


def test_notes_facts_and_totals_are_in_the_plan(monkeypatch) -> None:
    def of(args: argparse.Namespace) -> Course:
        return Course((_HALF, Stage("rest", 64 * 99)), _BOTH)

    monkeypatch.setattr(Course, "of", of)
    monkeypatch.setattr(courses, "_of_all_methods", lambda: _BOTH)
    found = make_plan(DENSE, 1, GPUS["h100"]).as_json()
    assert found["notes"][-1] == "half of the positions are chosen evenly"
    assert [step["share"] for step in found["per_step"]] == [0.5, 1.0]
    assert [step["steps"] for step in found["per_step"]] == [1, 99]
    assert found["run"]["positions_of_half"] == 64 * 128
    assert found["parameters"]["by_kind"]["memory"] == 40
    step, rest = found["per_step"]
    assert step["flops"] < rest["flops"]
    assert found["run"]["flops"] == step["flops"] + 99 * rest["flops"]
