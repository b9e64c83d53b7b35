"""Routers that choose among experts and no-op experts, in Megatron's trainer: alone, and in bags
beside routed blocks.
"""

import argparse
from pathlib import Path

import pytest
import torch
from saved import parameters
from trainer import TINY, Job, Result, attempt, lines, run, run_all

from tst_megatron.errors import UserError

KEPT = (*TINY, "--fixed-validation", "--save-interval=5", "--num-experts=4", "--moe-router-topk=2")
BALANCED = ("--moe-router-load-balancing-type=aux_loss", "--moe-aux-loss-coeff=1e-2")
ALL_TO_ALL = "--moe-token-dispatcher-type=alltoall"
PLAIN = (*KEPT, *BALANCED, ALL_TO_ALL)
NOOPS = (*PLAIN, "--noop-experts=2")
BY_BIASES = (
    *(*KEPT, "--noop-experts=2", "--moe-router-load-balancing-type=none"),
    *("--moe-router-score-function=sigmoid", "--moe-router-enable-expert-bias"),
    *("--mtp-num-layers=1", "--mod-capacity=0.5", "--mod-parts=4"),
    *("--tst-bag-size=2", "--tst-step-ratio=0.4"),
    *("--recompute-granularity=full", "--recompute-method=uniform", "--recompute-num-layers=1"),
)
RUNS = {"plain": PLAIN, "no-ops": NOOPS, "by biases": BY_BIASES}


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory) -> dict[str, Result]:
    folder = tmp_path_factory.mktemp("runs")
    jobs = [
        Job(folder / name, (*flags, *corpus.flags, f"--save={folder / name / 'saved'}"))
        for name, flags in RUNS.items()
    ]
    return dict(zip(RUNS, run_all(jobs), strict=True))


def folder_of(result: Result) -> Path:
    return result.ledger_file.parent / "saved"


def test_a_step_costs_what_was_chosen(runs) -> None:
    plain, ours = (lines(runs[name], "step") for name in ("plain", "no-ops"))
    # By hand: 4 sequences of 16 tokens, 2 layers, 2 experts a token of 3 matrices of 32 x 64.
    choices, work = 4 * 16 * 2 * 2, 6 * 3 * 32 * 64
    spent = 0.0
    for without, line in zip(plain, ours, strict=True):
        share = line["extras"]["noop_share"]
        assert 0 < share < 1
        of_layers = [line["extras"][f"noop_share_layer_{layer}"] for layer in (1, 2)]
        assert sum(of_layers) / 2 == pytest.approx(share)
        spent += share * choices * work
        assert without["flops"] - line["flops"] == pytest.approx(spent)
    (method,) = lines(runs["no-ops"], "header")[0]["methods"]
    assert method["facts"] == {"noop_experts": 2, "experts": 4}
    assert "2 no-op experts beside 4: where balanced they are 33.33 %" in runs["no-ops"].output
    for line in lines(runs["no-ops"], "validation"):
        assert 0 < line["facts"]["noop_share"] < 1


def test_heads_beside_routed_blocks_have_no_ops_too(runs) -> None:
    """In routed layer 2 half of the tokens choose, in the head's layer all; and each once, though
    activations are computed again.
    """
    header, steps = (lines(runs["by biases"], kind) for kind in ("header", "step"))
    names = [method["name"] for method in header[0]["methods"]]
    assert names == ["superposition", "depths", "noop_experts"]
    for line in steps:
        shares = [line["extras"][f"noop_share_layer_{layer}"] for layer in (1, 2, 3)]
        assert all(0 <= share <= 1 for share in shares)
        whole = (2 * shares[0] + shares[1] + 2 * shares[2]) / 5
        assert line["extras"]["noop_share"] == pytest.approx(whole)
        # Of the choices of 2 experts by 4 sequences of 16 tokens in two and a half layers.
        assert 320 * whole == pytest.approx(round(320 * whole))
    saved = parameters(folder_of(runs["by biases"]), 10)
    rows = [value.shape[-1] for name, value in saved.items() if name.endswith("expert_bias")]
    assert rows
    assert set(rows) == {6}


def test_a_resumed_run_is_the_unbroken_one(runs, corpus, tmp_path: Path) -> None:
    unbroken = runs["by biases"]
    start = (f"--load={folder_of(unbroken)}", "--ckpt-step=5")
    save = f"--save={tmp_path / 'saved'}"
    result = run(Job(tmp_path, (*BY_BIASES, *corpus.flags, *start, save)))
    assert result.losses == unbroken.losses[5:]
    ours, theirs = (lines(one, "step")[-1]["flops"] for one in (result, unbroken))
    assert ours == theirs
    wanted = parameters(folder_of(unbroken), 10)
    for key, value in parameters(tmp_path / "saved", 10).items():
        assert torch.equal(value, wanted[key]), key


def test_what_cannot_be_is_one_sentence(runs, corpus, tmp_path: Path) -> None:
    with_them, without = (f"--load={folder_of(runs[name])}" for name in ("no-ops", "plain"))
    for flags, says in (
        ((*PLAIN, with_them), "has 2 no-op experts in each layer with experts, which this run"),
        ((*NOOPS, without), "has no no-op experts, as it was trained without --noop-experts"),
        ((*PLAIN, "--noop-experts=3", with_them), "has 2 no-op experts and this run 3"),
        ((*NOOPS, with_them, "--grow=stack"), "--noop-experts with --grow"),
        ((*TINY, "--noop-experts=2"), "--noop-experts without --num-experts"),
    ):
        refused = attempt(tmp_path, (*flags, *corpus.flags))
        assert refused.code == 2, refused.output[-2000:]
        assert says in refused.output, refused.output[-2000:]
        assert "Traceback" not in refused.output


def test_more_experts_are_not_made_of_it_on_disk(runs) -> None:
    from tst_megatron.checkpoints.saved import Saved
    from tst_megatron.methods.upcycling.checkpoint_upcycle import model_args
    from tst_megatron.methods.upcycling.experts import OF_EXPERTS, Upcycling
    from tst_megatron.methods.upcycling.plan import plan_of

    saved = Saved(folder_of(runs["no-ops"]) / "iter_0000010")
    given = argparse.Namespace(**(dict.fromkeys(OF_EXPERTS) | {"num_experts": 8}))
    with pytest.raises(UserError, match=r"has 6 rows for 4 experts, as where there are no-op"):
        plan_of(saved, model_args(saved.args, given), Upcycling(), has_optimizer=False)
