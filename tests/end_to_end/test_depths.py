"""Blocks that work on fewer tokens, in Megatron's trainer: alone, in bags, with experts."""

import json
from pathlib import Path

import pytest
import torch
from ledgers import held_out
from saved import parameters
from trainer import TINY, Job, Result, attempt, lines, run, run_all

DEEP = (*TINY, "--num-layers=4", "--seq-length=32", "--max-position-embeddings=32")
KEPT = (*DEEP, "--fixed-validation", "--save-interval=5")
ROUTED = "--mod-capacity=0.25"
THRESHOLD = ("--mod-sampling=threshold", "--mod-threshold-decay=0.75")
BAGS = ("--tst-bag-size=2", "--tst-step-ratio=0.4")
EXPERTS = (
    *("--num-experts=4", "--moe-router-topk=2", "--moe-router-load-balancing-type=aux_loss"),
    *("--moe-aux-loss-coeff=1e-2", "--moe-token-dispatcher-type=alltoall"),
)
RECOMPUTED = (
    *("--recompute-granularity=full", "--recompute-method=uniform"),
    "--recompute-num-layers=1",
)
BY_RANK = "lm loss by rank"


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory) -> dict[str, Result]:
    folder = tmp_path_factory.mktemp("runs")
    flags = {
        "plain": (),
        "predictor": (ROUTED,),
        "recomputed": (ROUTED, *RECOMPUTED),
        "auxiliary": (ROUTED, "--mod-sampling=auxiliary", "--mod-layers=2-4"),
        "threshold": (ROUTED, *THRESHOLD),
        "random": (ROUTED, "--mod-choice=random"),
        "in bags, with experts": (ROUTED, *BAGS, *EXPERTS, "--mod-warmup-steps=4"),
    }
    jobs = [
        Job(folder / name, (*KEPT, *corpus.flags, *own, f"--save={folder / name / 'saved'}"))
        for name, own in flags.items()
    ]
    return dict(zip(flags, run_all(jobs), strict=True))


def folder_of(result: Result) -> Path:
    return result.ledger_file.parent / "saved"


def test_a_step_costs_what_its_tokens_do(runs) -> None:
    flops = {name: lines(one, "step")[-1]["flops"] for name, one in runs.items()}
    assert flops["predictor"] == flops["recomputed"]
    # Which have no predictor.
    assert flops["random"] == flops["threshold"] < flops["predictor"] < flops["plain"]
    # By hand: 10 steps of 4 sequences of 32 tokens, two blocks of which work on 8 each.
    tokens, weights, pairs = 32, 4 * 32**2 + 3 * 32 * 64, 6 * 32
    left_out = 6 * weights * (tokens - 8) + pairs * (tokens**2 - 8**2)
    router = 6 * tokens * (32 + 8 * 33)
    assert flops["plain"] - flops["predictor"] == pytest.approx(40 * 2 * (left_out - router))
    # And of a model's parameters so many work on a token, on average.
    counts = {name: lines(runs[name], "header")[0]["parameters"] for name in ("plain", "predictor")}
    routers, norms = 2 * (32 + 8 * 33), 2 * 32
    assert counts["predictor"]["total"] == counts["plain"]["total"] + routers
    at_rest = 2 * (1 - 0.25) * (weights + norms)
    assert counts["predictor"]["active"] == counts["plain"]["active"] + routers - at_rest
    # Four steps of the warm-up: all tokens in two of them, half of them in the other two.
    staged = [
        line["facts"]["block_capacity"] for line in lines(runs["in bags, with experts"], "step")
    ]
    assert staged == [1.0] * 2 + [0.5] * 2 + [0.25] * 6


def test_figures_of_routers_are_in_the_ledger(runs) -> None:
    header = lines(runs["predictor"], "header")[0]
    (method,) = header["methods"]
    assert method["name"] == "depths"
    assert method["facts"]["blocks"] == [[2, 0.25], [4, 0.25]]
    for line in lines(runs["predictor"], "step"):
        for block in (2, 4):
            extras = {
                name: line["extras"][f"mod_{name}_block_{block}"]
                for name in ("score", "score_spread", "agreeing", "passing", "loss")
            }
            assert 0 <= extras["passing"] <= 1
            assert extras["agreeing"] + extras["passing"] >= 0.25
            assert extras["score_spread"] > 0
            assert extras["loss"] > 0
    assert "8 of 32 tokens" in runs["predictor"].output


def test_validation_is_by_the_rule_and_by_rank(runs) -> None:
    for name, result in runs.items():
        validations = lines(result, "validation")
        assert validations
        for line in validations:
            losses = held_out(line)
            assert (BY_RANK in losses) == (name not in ("plain", "random")), name
            if name != "plain":
                assert 0 <= line["facts"]["mod_passing"] <= 1
            if BY_RANK in losses:
                # The same samples and the same model, but for whom the blocks let in.
                assert losses[BY_RANK] == pytest.approx(losses["lm loss"], abs=0.5)


def test_what_is_computed_again_is_computed_on_the_same_tokens(runs) -> None:
    one, other = (parameters(folder_of(runs[name]), 10) for name in ("predictor", "recomputed"))
    assert runs["predictor"].losses == runs["recomputed"].losses
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("name", ["predictor", "threshold", "in bags, with experts"])
def test_a_resumed_run_is_the_unbroken_one(runs, corpus, tmp_path: Path, name: str) -> None:
    own = {
        "predictor": (ROUTED,),
        "threshold": (ROUTED, *THRESHOLD),
        "in bags, with experts": (ROUTED, *BAGS, *EXPERTS, "--mod-warmup-steps=4"),
    }[name]
    source = folder_of(runs[name])
    flags = (*KEPT, *corpus.flags, *own, f"--load={source}", "--ckpt-step=5")
    result = run(Job(tmp_path, (*flags, f"--save={tmp_path / 'saved'}")))
    assert result.losses == runs[name].losses[5:]
    assert lines(result, "step")[-1]["flops"] == lines(runs[name], "step")[-1]["flops"]
    unbroken = parameters(source, 10)
    for key, value in parameters(tmp_path / "saved", 10).items():
        assert torch.equal(value, unbroken[key]), key


def test_what_cannot_be_is_one_sentence(runs, corpus, tmp_path: Path) -> None:
    routed, plain = (f"--load={folder_of(runs[name])}" for name in ("predictor", "plain"))
    for own, says in (
        ((routed,), "has 2 routed blocks, which this run has not"),
        ((ROUTED, plain), "has no routers, as it was trained without --mod-capacity"),
        ((ROUTED, plain, "--finetune"), "has no routers, as it was trained without"),
        ((routed, "--finetune"), "has 2 routed blocks, which this run has not"),
        (
            ("--mod-capacity=0.5", routed),
            "this run has --mod-capacity 0.5 in block 2, 0.5",
        ),
        ((ROUTED, "--mod-layers=1,3", routed), "has routers in blocks 2, 4 and this run in 1, 3"),
        ((ROUTED, "--mod-sampling=auxiliary", routed), "with --mod-sampling predictor and"),
        ((ROUTED, "--window-size=4,0"), "--window-size does not go with --mod-capacity"),
        ((ROUTED, "--mod-parts=5"), "--mod-parts 5 does not divide --seq-length 32"),
        ((ROUTED, "--mod-layers=5"), "names block 5 of a model with 4"),
    ):
        refused = attempt(tmp_path, (*KEPT, *corpus.flags, *own))
        assert refused.code == 2, refused.output[-2000:]
        assert says in refused.output, refused.output[-2000:]
        assert "Traceback" not in refused.output


def test_an_export_says_why_not(runs, tmp_path: Path, capfd, monkeypatch) -> None:
    import sys

    from tst_megatron import cli

    words = ["tst-megatron", "export", str(folder_of(runs["random"])), "--output"]
    monkeypatch.setattr(sys, "argv", [*words, str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert "whose tokens chance picks (--mod-choice random)" in capfd.readouterr().err


def test_the_model_is_asked_by_its_rule(runs, corpus, tmp_path: Path) -> None:
    """``--evaluate-at`` after a validation by rank, and before it."""
    text = tmp_path / "some.jsonl"
    text.write_text(json.dumps({"text": corpus.documents[0][:300]}) + "\n")
    source = folder_of(runs["predictor"])
    asked = ("--evaluate-at", "5", "10", f"--evaluate-text={text}")
    flags = (*KEPT, *corpus.flags, ROUTED, f"--load={source}", *asked)
    jobs = [Job(tmp_path / f"{step}", (*flags, f"--ckpt-step={step}")) for step in (5, 10)]
    trained, loaded = run_all(jobs)
    assert trained.losses == runs["predictor"].losses[5:]
    one, other = (lines(result, "evaluation")[-1] for result in (trained, loaded))
    assert one["step"] == other["step"] == 10
    assert one["evaluations"] == other["evaluations"]
