"""The paper's variants through the real trainer: what each reads, logs and is scored by."""

import json

import pytest
from ledgers import bag_loss
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainer import TINY, Job, Result, run_all

VARIANTS = {
    "both": ("--tst-bag-size=4",),
    "input": ("--tst-bag-size=4", "--tst-superpose=input"),
    "output": ("--tst-bag-size=4", "--tst-superpose=output"),
    "power": (
        *("--tst-bag-size=4", "--tst-bag-weights=power"),
        *("--tst-loss-implementation=eager", "--cross-entropy-loss-fusion"),
    ),
    "mce-alt": ("--tst-bag-size=4", "--tst-objective=mce-alt"),
    "hybrid": ("--tst-bag-size=4", "--hybrid-layer-pattern=*-*-"),
    "moe": (
        *(
            "--tst-bag-size=4",
            "--num-experts=4",
            "--moe-router-topk=2",
            "--moe-aux-loss-coeff=0.01",
        ),
        "--moe-router-load-balancing-type=aux_loss",
    ),
    "ordinary": (),
}


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory) -> dict[str, tuple[Job, Result]]:
    root = tmp_path_factory.mktemp("ablations")
    jobs = {}
    for name, flags in VARIANTS.items():
        tiny = [flag for flag in TINY if name != "hybrid" or "num-layers" not in flag]
        own = (f"--tensorboard-dir={root / name / 'tb'}", "--fixed-validation")
        jobs[name] = Job(root / name, (*tiny, *corpus.flags, *own, "--eval-interval=2", *flags))
    results = run_all(list(jobs.values()))
    return {name: (job, result) for (name, job), result in zip(jobs.items(), results, strict=True)}


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "ordinary"])
def test_the_loss_has_its_own_name_in_each_phase(runs, name: str) -> None:
    ledger = runs[name][1].ledger
    names = [line["loss_name"] for line in ledger.steps]
    assert names == ["bag loss"] * 3 + ["lm loss"] * 7
    assert all(line["loss"] > 0 for line in ledger.steps)


def test_data_tokens_are_what_each_variant_reads(runs) -> None:
    a_step = 4 * 16
    for name in VARIANTS:
        last = runs[name][1].ledger.steps[-1]
        reads_bags = name not in ("output", "ordinary")
        assert last["positions"] == 10 * a_step
        assert last["data_tokens"] == (7 + 3 * (4 if reads_bags else 1)) * a_step, name


def test_flops_are_the_baselines(runs) -> None:
    ordinary = [line["flops"] for line in runs["ordinary"][1].ledger.steps]
    for name in ("both", "input", "output", "power", "mce-alt"):
        assert [line["flops"] for line in runs[name][1].ledger.steps] == ordinary


def test_validation_has_both_losses_in_the_superposition_phase_alone(runs) -> None:
    validations = runs["both"][1].ledger.validations
    assert [line["step"] for line in validations] == [2, 4, 6, 8, 10]
    assert bag_loss(validations[0]) is not None
    assert all(bag_loss(line) is None for line in validations[1:])
    assert all(line["next_token_loss"] > 0 for line in validations)


def test_fixed_validation_is_the_same_every_time(runs) -> None:
    """Megatron validates once more after the last step: on the same samples, with the same loss."""
    written = runs["both"][0].out.joinpath("ledger.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in written]
    final = [
        line["next_token_loss"]
        for line in lines
        if line["kind"] == "validation" and line["step"] == 10
    ]
    assert len(final) == 2
    assert final[0] == final[1]


def test_the_log_line_and_tensorboard_carry_the_phase(runs) -> None:
    job, result = runs["both"]
    line = next(x for x in result.output.splitlines() if " iteration        3/      10" in x)
    for part in ("bag loss:", "stage: 0", "bag size: 4", "positions: 192", "data tokens: 768"):
        assert part in line
    later = next(x for x in result.output.splitlines() if " iteration        4/      10" in x)
    assert "bag loss" not in later
    fields = dict(part.split(": ") for part in line.strip(" |").split(" | ")[1:])
    assert list(fields)[-2:] == ["data tokens per second", "time left"]
    assert float(fields["data tokens per second"]) > 0
    events = EventAccumulator(str(job.out / "tb"))
    events.Reload()
    assert [event.value for event in events.Scalars("bag-size")] == [4] * 3 + [1] * 7
    assert [event.value for event in events.Scalars("stage")] == [0] * 3 + [1] * 7
    assert events.Scalars("data-tokens")[-1].value == (3 * 4 + 7) * 64
    assert len(events.Scalars("bag loss validation")) == 1
    assert len(events.Scalars("lm loss validation")) == 6


def test_a_run_says_what_it_will_do_and_which_stage_begins(runs, corpus) -> None:
    said = {
        name: [x.removeprefix("tst-megatron: ") for x in lines if x.startswith("tst-megatron: ")]
        for name in ("both", "ordinary")
        if (lines := runs[name][1].output.splitlines())
    }
    in_bits = [line for line in said["both"] if line.endswith("bits a byte of the held-out text")]
    # One a validation: five of the run, and the one at its end.
    assert len(in_bits) == 6
    said = {name: [x for x in lines if "bits a byte" not in x] for name, lines in said.items()}
    layout = (
        "1 rank: TP 1, PP 1, EP 1, CP 1, DP 1; micro-batch 2, global batch 4 samples of 16 "
        "positions"
    )
    assert said["both"][:2] == [
        "10 steps: 3 of bags of 4 (768 tokens), then 7 of single tokens (448 tokens)",
        layout,
    ]
    assert said["both"][2].startswith("1,216 tokens of text needed, ")
    assert said["both"][3:] == ["stage 1 begins with step 4: single tokens, 7 steps, 448 tokens"]
    assert said["ordinary"][:2] == ["10 steps: 10 of single tokens (640 tokens)", layout]
    assert len(said["ordinary"]) == 3
    # Dropout off, a model of two layers: what would be said of each layer's generator is not.
    assert "RNG state changed" not in runs["both"][1].output


def test_averages_over_an_interval_with_the_switch_in_it(corpus, tmp_path) -> None:
    """Each loss is averaged over its own steps, not over all of the interval."""
    flags = (*TINY, *corpus.flags, "--tst-bag-size=4")
    often, seldom = run_all(
        [Job(tmp_path / "often", flags), Job(tmp_path / "seldom", (*flags, "--log-interval=5"))]
    )
    losses = often.losses
    line = next(x for x in seldom.output.splitlines() if " iteration        5/      10" in x)
    shown = dict(part.split(": ") for part in line.split(" | ") if ": " in part)
    assert float(shown["bag loss"]) == pytest.approx(sum(losses[:3]) / 3, rel=1e-5)
    assert float(shown["lm loss"]) == pytest.approx(sum(losses[3:5]) / 2, rel=1e-5)
