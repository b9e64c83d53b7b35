"""What a real run leaves in its ledger, its log and TensorBoard, with the losses two ranks away."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainer import TINY, Job, Result, run

from tst_megatron.analysis.compare.stories import vocabulary, words_of
from tst_megatron.corpora.manifest import manifest_path, read_manifest
from tst_megatron.runs.inputs import read_runs
from tst_megatron.runs.run import is_same_run, run_of_ledger

MOE = ("--num-experts=4", "--moe-router-topk=2", "--moe-router-load-balancing-type=aux_loss")
MORE = (*MOE, "--moe-aux-loss-coeff=1e-2", "--moe-ffn-hidden-size=64", "--num-layers=2")
TST = ("--tst-bag-size=4", "--tst-step-ratio=0.5")


@pytest.fixture(scope="module")
def ran(corpus, tmp_path_factory) -> tuple[Result, Path]:
    """A superposed pipeline of two ranks that is compared with a baseline, as it trains."""
    out = tmp_path_factory.mktemp("ledger")
    first = run(Job(out / "first", (*TINY, *corpus.flags, *MORE)))
    flags = (
        *(*TINY, *corpus.flags, *MORE, *TST, "--pipeline-model-parallel-size=2"),
        *(f"--tensorboard-dir={out / 'tb'}", f"--compare-with={first.ledger_file}"),
        *(f"--save={out / 'checkpoints'}", "--save-interval=5"),
    )
    return run(Job(out / "second", flags, num_ranks=2)), out


def test_the_header_says_what_ran(ran: tuple[Result, Path], corpus) -> None:
    header = ran[0].ledger.header
    assert len(header["run_id"]) == 32
    assert header["world_size"] == 2
    assert header["layout"]["pipeline_model_parallel_size"] == 2
    assert header["layout"]["data_parallel_size"] == 1
    assert header["flags"]["tst_bag_size"] == 4
    assert header["recipe"] is None
    manifest = manifest_path(corpus.prefix)
    sha256 = hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.exists() else None
    assert header["data"] == [{"path": str(corpus.prefix), "manifest_sha256": sha256}]
    (method,) = header["methods"]
    assert method["name"] == "superposition"
    assert [(stage["name"], stage["samples"]) for stage in method["stages"]] == [
        ("bags of 4", 20),
        ("single tokens", 20),
    ]
    assert method["facts"]["superpose"] == "both"
    assert header["parents"] == []
    model = hashlib.sha256(corpus.tokenizer.read_bytes()).hexdigest()
    assert header["tokenizer"]["sha256"] == model
    # By hand: h = 32, V from the tokenizer, 2 layers, 4 experts of 64, gated.
    vocabulary = 32 * header["tokenizer"]["padded_vocab_size"]
    attention, norms, router = 4 * 32 * 32, 2 * 32, 4 * 32
    expert = 3 * 32 * 64
    shared = 2 * (attention + norms + router) + 32
    assert header["parameters"] == {
        "total": 2 * vocabulary + shared + 2 * 4 * expert,
        "active": vocabulary + shared + 2 * 2 * expert,
    }


def test_the_lines_have_what_the_last_stage_knows(ran: tuple[Result, Path], corpus) -> None:
    ledger = ran[0].ledger
    assert [line["step"] for line in ledger.steps] == list(range(1, 11))
    assert [line["loss_name"] for line in ledger.steps] == ["bag loss"] * 5 + ["lm loss"] * 5
    for line in ledger.steps:
        assert 0 < line["loss"] < 10
        assert line["samples"] == 4 * line["step"]
        assert line["extras"]["load_balancing_loss"] > 0
        named = sum(line[f"{name}_s"] for name in ("data_wait", "evaluation", "checkpoint"))
        assert named + line["startup_s"] <= line["other_s"] + 1e-3
        assert line["gpu_hours"] == pytest.approx(2 * line["wall_clock_s"] / 3600, abs=1e-5)
    first, after = ledger.steps[0], ledger.steps[5]
    assert first["startup_s"] > 0.5
    # The checkpoint and the evaluation of step 5 are in the line after it.
    assert after["checkpoint_s"] > 0
    assert after["evaluation_s"] > 0
    spent = sum(line["compute_s"] + line["other_s"] for line in ledger.steps)
    assert spent == pytest.approx(ledger.steps[-1]["wall_clock_s"], abs=0.5)
    superposed, ordinary = ledger.validations[0], ledger.validations[-1]
    assert superposed["stderrs"]["bag loss"] > 0
    assert ordinary["next_token_loss_stderr"] > 0
    manifest = read_manifest(corpus.prefix)
    assert manifest is not None
    for line in ledger.validations:
        # Two batches of four sequences.
        assert line["tokens"] == 2 * 4 * 16
        # Counted id by id: near the corpus's mean, and whole.
        assert isinstance(line["bytes"], int)
        assert line["bytes"] == pytest.approx(line["tokens"] * manifest.bytes_per_token, rel=0.3)
    assert "losses" not in ordinary


def test_tensorboard_has_the_same(ran: tuple[Result, Path]) -> None:
    result, out = ran
    events = EventAccumulator(str(out / "tb"))
    events.Reload()

    def scalars(name: str) -> dict[int, float]:
        return {event.step: event.value for event in events.Scalars(name)}

    steps = {line["step"]: line for line in result.ledger.steps}
    assert scalars("flops") == pytest.approx({n: line["flops"] for n, line in steps.items()})
    for name in ("compute", "other", "data-wait", "evaluation", "checkpoint", "startup"):
        assert set(scalars(f"{name}-seconds")) == set(steps)
    assert set(scalars("gpu-hours")) == set(steps)
    # Megatron validates once more after the last step, on other samples: the first counts.
    last = [event.value for event in events.Scalars("lm loss validation") if event.step == 10]
    assert len(last) == 2
    assert last[0] != last[1]
    (told,) = read_runs([out / "tb"], vocabulary())
    kept = run_of_ledger(result.ledger, "kept")
    np.testing.assert_allclose(told.curve.losses, kept.curve.losses, rtol=1e-6)
    np.testing.assert_allclose(told.curve.stderrs, kept.curve.stderrs, rtol=1e-6)
    assert is_same_run(told, kept)
    assert told.curve.losses[-1] == pytest.approx(last[0])
    assert words_of(told) == "bags of 4 for 50 %"


def test_the_log_says_what_the_other_run_needed(ran: tuple[Result, Path]) -> None:
    result, _ = ran
    said = [line for line in result.output.splitlines() if "compared with" in line]
    # Megatron validates once more after the last step.
    assert len(said) == len(result.ledger.validations) + 1
    assert all("the other run" in line for line in said)
