"""Multi-token prediction through two superposed stages and the recovery, in the real trainer."""

import pytest
from ledgers import bag_loss
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainer import TINY, Job, Result, run_all

MODELS = {
    "gpt": ("--mtp-num-layers=2",),
    "hybrid": ("--hybrid-layer-pattern=*-*-/*-/*-",),
    "input": ("--mtp-num-layers=2", "--tst-superpose=input"),
    "output": ("--mtp-num-layers=2", "--tst-superpose=output"),
}
HEADS = ("mtp_1", "mtp_2")


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory) -> dict[str, tuple[Job, Result]]:
    root = tmp_path_factory.mktemp("heads")
    jobs = {}
    for name, flags in MODELS.items():
        tiny = [flag for flag in TINY if name != "hybrid" or "num-layers" not in flag]
        own = (f"--tensorboard-dir={root / name / 'tb'}", "--tst-schedule=4:0.3,2:0.2")
        # The second line of the log is of an interval with the switch in it.
        intervals = ("--log-interval=4", "--eval-interval=4")
        jobs[name] = Job(root / name, (*tiny, *corpus.flags, *own, *intervals, *flags))
    results = run_all(list(jobs.values()))
    return {name: (job, result) for (name, job), result in zip(jobs.items(), results, strict=True)}


def scalars(job: Job) -> dict[str, dict[int, float]]:
    events = EventAccumulator(str(job.out / "tb"))
    events.Reload()
    return {
        name: {event.step: event.value for event in events.Scalars(name)}
        for name in events.Tags()["scalars"]
    }


@pytest.mark.parametrize("name", MODELS)
def test_the_heads_losses_on_bags_have_names_of_their_own(runs, name: str) -> None:
    written = scalars(runs[name][0])
    for head in HEADS:
        assert list(written[f"{head} bag loss"]) == [1, 2, 3, 4, 5]
        assert list(written[f"{head} loss"]) == [6, 7, 8, 9, 10]
        for loss in (*written[f"{head} bag loss"].values(), *written[f"{head} loss"].values()):
            assert 0.0 < loss < 10.0
        for kind in ("acceptance_rate", "cumulative_acceptance_rate"):
            assert list(written[f"{head}_bag_{kind}"]) == [1, 2, 3, 4, 5]
            assert list(written[f"{head}_{kind}"]) == [6, 7, 8, 9, 10]


def test_cumulative_rates_begin_anew_in_every_stage(runs) -> None:
    written = scalars(runs["gpt"][0])
    for head in HEADS:
        bags, ordinary = written[f"{head}_bag_acceptance_rate"], written[f"{head}_acceptance_rate"]
        of_bags = written[f"{head}_bag_cumulative_acceptance_rate"]
        assert of_bags[3] == pytest.approx((bags[1] + bags[2] + bags[3]) / 3, rel=1e-5)
        assert (of_bags[1], of_bags[4]) == (bags[1], bags[4])
        assert written[f"{head}_cumulative_acceptance_rate"][6] == ordinary[6]


@pytest.mark.parametrize("name", MODELS)
def test_the_log_averages_each_loss_over_its_own_steps(runs, name: str) -> None:
    job, result = runs[name]
    written = scalars(job)
    lines = [
        dict(part.split(": ") for part in line.split(" | ") if ": " in part)
        for line in result.output.splitlines()
        if " iteration        4/" in line or " iteration        8/" in line
    ]
    before, across = lines
    for head in HEADS:
        bags, ordinary = written[f"{head} bag loss"], written[f"{head} loss"]
        assert f"{head} loss" not in before
        expected = sum(bags[i] for i in (1, 2, 3, 4)) / 4
        assert float(before[f"{head} bag loss"]) == pytest.approx(expected, rel=1e-5)
        assert float(across[f"{head} bag loss"]) == pytest.approx(bags[5], rel=1e-5)
        expected = sum(ordinary[i] for i in (6, 7, 8)) / 3
        assert float(across[f"{head} loss"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_validation_goes_on(runs, name: str) -> None:
    validations = runs[name][1].ledger.validations
    assert [line["step"] for line in validations] == [4, 8, 10]
    assert [bag_loss(line) is not None for line in validations] == [True, False, False]
    assert all(line["next_token_loss"] > 0 for line in validations)
