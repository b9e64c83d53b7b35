"""A switch decided by measurement: told, replayed, the same after any cut and on every rank."""

from dataclasses import fields
from pathlib import Path

import pytest
import torch
from ledgers import bag_loss, bag_size
from saved import tensors
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainer import TINY, Job, Result, run, run_all

from tst_megatron.methods.superposition.switch_rule import Decision, Point, Rule, decide
from tst_megatron.runs.ledger import Ledger
from tst_megatron.runs.run import run_of_ledger

# Sixty steps with a validation every third: between 18 and 48 of them may be superposed.
AUTO = (
    *("--train-iters=60", "--eval-interval=3", "--fixed-validation"),
    "--tst-schedule=auto:4:0.3,0.8",
)
CUTS = (12, 30, 48)
"""Before the decision, between it and the switch, after the switch."""


@pytest.fixture(scope="module")
def unbroken(corpus, tmp_path_factory) -> tuple[Job, Result]:
    """Two workers read ahead for it; a checkpoint every sixth step."""
    out = tmp_path_factory.mktemp("auto") / "unbroken"
    flags = (
        *(*TINY, *corpus.flags, *AUTO, "--num-workers=2", f"--tensorboard-dir={out / 'scalars'}"),
        *(f"--save={out / 'checkpoints'}", "--save-interval=6"),
    )
    job = Job(out, flags)
    return job, run(job)


@pytest.fixture(scope="module")
def others(corpus, unbroken: tuple[Job, Result], tmp_path_factory) -> dict[str, Result]:
    """Runs that go on from its checkpoints, also on two ranks and as a pipeline of two."""
    root = tmp_path_factory.mktemp("others")
    common, checkpoints = (*TINY, *corpus.flags, *AUTO), unbroken[0].out / "checkpoints"
    jobs = {
        f"from {cut}": Job(
            root / str(cut),
            (
                *(*common, f"--load={checkpoints}", f"--ckpt-step={cut}"),
                *(f"--save={root / str(cut) / 'checkpoints'}", "--save-interval=60"),
            ),
        )
        for cut in CUTS
    }
    early = (*common, f"--load={checkpoints}", "--ckpt-step=12")
    jobs["from 12 on two ranks"] = Job(root / "two", early, 2)
    pipeline = ("--pipeline-model-parallel-size=2", "--num-workers=1")
    jobs["from 12 as a pipeline"] = Job(root / "pipeline", (*early, *pipeline), 2)
    return dict(zip(jobs, run_all(list(jobs.values())), strict=True))


def decision_of(ledger: Ledger) -> Decision:
    """From the ledger alone, as anyone may replay it."""
    auto = ledger.header["methods"][0]["facts"]["auto"]
    rule = Rule(**{field.name: auto[field.name] for field in fields(Rule)})
    points = [Point(*point) for point in auto["points"]]
    points += [
        Point(line["step"], loss)
        for line in ledger.validations
        if (loss := bag_loss(line)) is not None
    ]
    decision = decide(sorted(set(points), key=lambda point: point.step), rule)
    assert decision is not None
    return decision


def test_the_ledger_replays_the_decision(unbroken: tuple[Job, Result]) -> None:
    ledger = unbroken[1].ledger
    decision = decision_of(ledger)
    assert 18 < decision.switch_step < 48
    assert [
        (line["step"], line["facts"]["switch_step"])
        for line in ledger.validations
        if "switch_step" in line["facts"]
    ] == [(decision.measured_at, decision.switch_step)]
    bag_sizes = [bag_size(line) for line in ledger.steps]
    ordinary = 60 - decision.switch_step
    assert bag_sizes == [4] * decision.switch_step + [1] * ordinary
    assert [span.last_step for span in run_of_ledger(ledger, "").stages] == [
        decision.switch_step,
        60,
    ]
    assert ledger.steps[-1]["data_tokens"] == (4 * decision.switch_step + ordinary) * 4 * 16


def test_the_log_and_tensorboard_tell(unbroken: tuple[Job, Result]) -> None:
    job, result = unbroken
    decision = decision_of(result.ledger)
    assert result.output.count("the superposed stage ends after step") == 1
    assert f"ends after step {decision.switch_step}, decided at step" in result.output
    scalars = EventAccumulator(str(job.out / "scalars")).Reload().Scalars("switch-step")
    assert [(s.step, s.value) for s in scalars] == [(decision.measured_at, decision.switch_step)]


@pytest.mark.parametrize("cut", CUTS)
def test_a_resumed_run_is_the_unbroken_one(
    unbroken: tuple[Job, Result], others: dict[str, Result], cut: int
) -> None:
    """Bit for bit, though nothing reads ahead in it and two workers did before."""
    job, result = unbroken
    names = ("step", "loss", "grad_norm", "facts", "data_tokens")
    whole, rest = (
        [[line[name] for name in names] for line in run.ledger.steps]
        for run in (result, others[f"from {cut}"])
    )
    assert rest == whole[cut:]
    assert decision_of(others[f"from {cut}"].ledger) == decision_of(result.ledger)
    mine = tensors(others[f"from {cut}"].ledger_file.parent / "checkpoints", 60)
    for name, tensor in tensors(job.out / "checkpoints", 60).items():
        assert torch.equal(mine[name], tensor), name


def test_the_cuts_are_where_they_are_said_to_be(unbroken: tuple[Job, Result]) -> None:
    decision = decision_of(unbroken[1].ledger)
    assert CUTS[0] < decision.measured_at <= CUTS[1] < decision.switch_step < CUTS[2]


@pytest.mark.parametrize("name", ["from 12 on two ranks", "from 12 as a pipeline"])
def test_all_ranks_switch_as_one(
    unbroken: tuple[Job, Result], others: dict[str, Result], name: str
) -> None:
    ledger = others[name].ledger
    switch = decision_of(ledger).switch_step
    assert switch == decision_of(unbroken[1].ledger).switch_step
    for line in ledger.steps:
        assert bag_size(line) == (4 if line["step"] <= switch else 1)
    losses = {line["step"]: line["loss"] for line in unbroken[1].ledger.steps}
    for line in ledger.steps:
        assert line["loss"] == pytest.approx(losses[line["step"]], rel=1e-3)


def test_other_bounds_are_refused(corpus, unbroken: tuple[Job, Result], tmp_path: Path) -> None:
    checkpoints = unbroken[0].out / "checkpoints"
    flags = (*TINY, *corpus.flags, *AUTO[:-1], f"--load={checkpoints}")
    refused = run(Job(tmp_path, (*flags, "--tst-schedule=auto:4:0.3,0.7")), check=False)
    assert refused.code == 2
    assert "--allow-schedule-change" in refused.output
    assert '"last_switch": 48' in refused.output
    assert '"points"' not in refused.output
