"""A GPTModel's run goes on as its twin, a HybridModel of the same blocks: with the same losses, in
whatever layout, with experts, bags and n-grams, and its optimizer's moments.
"""

from pathlib import Path

import pytest
import torch
from saved import parameters
from trainer import TINY, Job, Result, attempt, run_all

BASE = (*(flag for flag in TINY if not flag.startswith("--num-layers")), "--fixed-validation")
EXPERTS = (
    *("--num-experts=4", "--moe-router-topk=2", "--moe-ffn-hidden-size=48", "--bf16"),
    *("--moe-router-load-balancing-type=aux_loss", "--moe-aux-loss-coeff=1e-2"),
    *("--moe-token-dispatcher-type=alltoall", "--moe-layer-freq=[0,1]"),
)
RESHARDABLE = ("--use-distributed-optimizer", "--dist-ckpt-optim-fully-reshardable")
BAGS = ("--tst-bag-size=2", "--tst-step-ratio=0.7", "--ngram-rows=50", "--ngram-orders=2-3")
MODELS: dict[str, tuple[tuple[str, ...], str]] = {
    "dense": (("--untie-embeddings-and-output-weights",), "*-*-"),
    "bags": ((*BAGS, *RESHARDABLE), "*-*-"),
    "experts": (EXPERTS, "*-*E"),
}
HALF = 5


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory) -> dict[str, Result]:
    """Each GPTModel to its end; from its middle as itself, and as its twin on one and two ranks."""
    folder = tmp_path_factory.mktemp("twins")

    def job(name: str, flags: tuple[str, ...], num_ranks: int = 1) -> Job:
        save = f"--save={folder / name / 'saved'}"
        return Job(folder / name, (*BASE, *corpus.flags, *flags, save), num_ranks)

    first = {
        name: job(name, (*own, "--num-layers=2", f"--save-interval={HALF}"))
        for name, (own, _) in MODELS.items()
    }
    found = dict(zip(first, run_all(list(first.values())), strict=True))
    later: dict[str, Job] = {}
    for name, (own, pattern) in MODELS.items():
        start = (f"--load={folder / name / 'saved'}", f"--ckpt-step={HALF}", "--save-interval=10")
        hybrid = (*own, *start, f"--hybrid-layer-pattern={pattern}")
        later[f"{name}, twin"] = job(f"{name}, twin", hybrid)
        if name == "dense":
            stages = f"--hybrid-layer-pattern={pattern[:2]}|{pattern[2:]}"
            split = (*own, *start, stages, "--pipeline-model-parallel-size=2")
            later["dense, pipeline"] = job("dense, pipeline", split, 2)
        if name == "bags":
            parallel = (*hybrid, "--tensor-model-parallel-size=2", "--sequence-parallel")
            later["bags, tensor parallel"] = job("bags, tensor parallel", parallel, 2)
    return found | dict(zip(later, run_all(list(later.values())), strict=True))


def folder_of(result: Result) -> Path:
    return result.ledger_file.parent / "saved"


@pytest.mark.parametrize("name", MODELS)
def test_its_losses_are_the_unbroken_runs(runs, name: str) -> None:
    whole, twin = runs[name], runs[f"{name}, twin"]
    assert twin.losses == whole.losses[HALF:]
    assert twin.grad_norms == pytest.approx(whole.grad_norms[HALF:], rel=1e-6)
    ours, theirs = (
        [v for v in one.ledger.validations if v["step"] > HALF] for one in (twin, whole)
    )
    assert [v["next_token_loss"] for v in ours] == [v["next_token_loss"] for v in theirs]
    # One price: a step's FLOPs, in all and as counted for the model.
    assert [line["flops"] for line in twin.ledger.steps][-1] == pytest.approx(
        whole.ledger.steps[-1]["flops"], rel=1e-12
    )


@pytest.mark.parametrize("layout", ["dense, pipeline", "bags, tensor parallel"])
def test_a_layout_goes_on_likewise(runs, layout: str) -> None:
    whole = runs[layout.partition(",")[0]]
    # Sums in another order, in float32.
    assert runs[layout].losses == pytest.approx(whole.losses[HALF:], rel=1e-4)


def test_a_twin_ends_with_the_same_weights(runs) -> None:
    whole, twin = (parameters(folder_of(runs[name]), 10) for name in ("dense", "dense, twin"))
    for half, own in ((0, "self_attention.linear_proj.weight"), (1, "mlp.linear_fc2.weight")):
        for block in range(2):
            ours = twin[f"decoder.layers.{2 * block + half}.{own}"]
            assert torch.equal(ours, whole[f"decoder.layers.{own}"][block]), own
    assert torch.equal(twin["decoder.final_norm.weight"], whole["decoder.final_layernorm.weight"])


def test_what_is_no_twin_is_one_sentence(runs, corpus, tmp_path: Path) -> None:
    load = f"--load={folder_of(runs['dense'])}"
    own = ("--untie-embeddings-and-output-weights", load)
    for more, says in (
        (("--hybrid-layer-pattern=*-*-*-",), "its twin has --hybrid-layer-pattern '*-*-'"),
        (("--hybrid-layer-pattern=**--",), "its twin has --hybrid-layer-pattern '*-*-'"),
        (("--hybrid-layer-pattern=*-*-*-*-", "--grow=stack"), "to become another model (growth)"),
        (("--hybrid-layer-pattern=*-*-", "--no-rope-freq=2"), "--no-rope-freq means other layers"),
        (("--hybrid-layer-pattern=*-*-", "--ffn-hidden-size=32"), "ffn_hidden_size 64 and this"),
    ):
        refused = attempt(tmp_path, (*BASE, *corpus.flags, *own, *more))
        assert refused.code == 2, refused.output[-2000:]
        assert says in refused.output, refused.output[-2000:]
        assert "Traceback" not in refused.output
