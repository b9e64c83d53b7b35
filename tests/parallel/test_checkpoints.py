"""A checkpoint of the superposition phase is Megatron's own, and goes on in any layout."""

import re
from pathlib import Path

import pytest
import torch
from ledgers import bag_size
from matrix import MODELS, SCHEDULE
from trainer import Job, Result, run, run_all

CUT = 2  # Steps: inside the first of two superposed stages.
_SHARDED = ("--use-distributed-optimizer", "--overlap-grad-reduce", "--overlap-param-gather")
_TP = ("--tensor-model-parallel-size=2",)
_SP = (*_TP, "--sequence-parallel")
_PP = ("--pipeline-model-parallel-size=2",)
_EP = ("--expert-model-parallel-size=2",)
_ANY = ("--dist-ckpt-optim-fully-reshardable",)
# To 384 tokens on one rank; Megatron would pad to 512 for two.
_PADDED = ("--make-vocab-size-divisible-by=128",)

# name -> (model, flags and ranks before the cut, flags and ranks after it)
CHANGES = {
    "tp1-to-tp2": ("dense", (_PADDED, 1), ((*_PADDED, *_TP), 2)),
    "pp2-to-pp1": ("dense", (_PP, 2), ((), 1)),
    "ep2-to-ep1": ("moe", (_EP, 2), ((), 1)),
    "ep1-to-ep2": ("moe", ((), 2), (_EP, 2)),
    "sharded-ep2-to-ep1": ("moe", ((*_EP, *_SHARDED, *_ANY), 2), ((*_SHARDED, *_ANY), 1)),
    "sharded-ep1-to-ep2": ("moe", ((*_SHARDED, *_ANY), 2), ((*_EP, *_SHARDED, *_ANY), 2)),
    "dp2-to-dp1": ("dense", ((), 2), ((), 1)),
    "sharded-dp2-to-dp2": ("dense", (_SHARDED, 2), (_SHARDED, 2)),
    "sharded-dp2-to-dp1": ("dense", (_SHARDED, 2), (("--use-distributed-optimizer",), 1)),
    "sharded-dp2-to-tp2": ("dense", ((*_SHARDED, *_ANY), 2), ((*_SHARDED, *_SP, *_ANY), 2)),
}


@pytest.fixture(scope="module")
def changed(corpus, tmp_path_factory) -> tuple[dict[str, Job], dict[str, Result]]:
    """Each run cut and continued, and the unbroken run of its first layout."""
    root = tmp_path_factory.mktemp("checkpoints")
    cut, whole, rest = {}, {}, {}
    for name, (model, (before, ranks), (after, ranks_after)) in CHANGES.items():
        common = (*MODELS[model], *corpus.flags, SCHEDULE)
        checkpoints = root / name / "checkpoints"
        save = (f"--save={checkpoints}", f"--save-interval={CUT}", f"--exit-interval={CUT}")
        cut[name] = Job(root / name / "cut", (*common, *before, *save), ranks)
        whole[name] = Job(root / name / "whole", (*common, *before), ranks)
        rest[name] = Job(
            root / name / "rest", (*common, *after, f"--load={checkpoints}"), ranks_after
        )
    run_all([*cut.values(), *whole.values()])
    results = run_all(list(rest.values()))
    return whole, dict(zip(rest, results, strict=True))


@pytest.mark.parametrize("name", CHANGES)
def test_a_run_goes_on_in_another_layout(changed, name: str) -> None:
    from tst_megatron.runs.ledger import read_ledger

    whole, rest = changed
    _, before, after = CHANGES[name]
    loss_tolerance, norm_tolerance = (0.0, 0.0) if before == after else (1e-5, 1e-4)
    unbroken = read_ledger(whole[name].out / "ledger.jsonl").steps[CUT:]
    went_on = rest[name].ledger.steps
    assert [line["step"] for line in went_on] == list(range(CUT + 1, 11))
    for mine, theirs in zip(went_on, unbroken, strict=True):
        assert bag_size(mine) == bag_size(theirs)
        assert mine["data_tokens"] == theirs["data_tokens"]
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=loss_tolerance, abs=0.0)
        # Of a small gradient at the end, where Adam has enlarged the rounding of the layouts.
        assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=norm_tolerance, abs=0.0)


@pytest.fixture(scope="module")
def superposed(corpus, tmp_path_factory) -> Path:
    """Checkpoints of a run that was cut in its superposition phase."""
    out = tmp_path_factory.mktemp("superposed")
    save = (f"--save={out}", f"--save-interval={CUT}", f"--exit-interval={CUT}")
    run(Job(out, (*MODELS["dense"], *corpus.flags, SCHEDULE, *save)))
    return out


def test_the_stock_model_reads_it_to_the_same_logits(corpus, superposed: Path, tmp_path) -> None:
    worker = str(Path(__file__).with_name("logits_worker.py"))
    for name, own in (("stock", ()), ("superposed", (SCHEDULE,))):
        flags = (*MODELS["dense"], *corpus.flags, f"--load={superposed}", *own)
        run(Job(tmp_path / name, flags, program=(worker, str(tmp_path / f"{name}.pt"))))
    stock, ours = (torch.load(tmp_path / f"{name}.pt") for name in ("stock", "superposed"))
    assert (stock["class"], ours["class"]) == ("GPTModel", "SuperposedGPTModel")
    assert (stock["iteration"], ours["iteration"]) == (CUT, CUT)
    assert stock["logits"].shape == (2, 16, 384)
    assert torch.equal(stock["logits"], ours["logits"])


def test_it_goes_on_as_ordinary_training(corpus, superposed: Path, tmp_path) -> None:
    """Without a --tst- flag: as Megatron's own trainer goes on from it, step for step."""
    stock = (str(Path(__file__).parents[1] / "stock_pretrain.py"),)
    flags = (*MODELS["dense"], *corpus.flags, f"--load={superposed}")
    ours, theirs = run_all(
        [Job(tmp_path / "ours", flags), Job(tmp_path / "theirs", flags, program=stock)]
    )
    # What led to the checkpoint is brought along.
    assert [line["step"] for line in ours.ledger.steps] == list(range(1, 11))
    names = [line["loss_name"] for line in ours.ledger.steps]
    assert names == ["bag loss"] * CUT + ["lm loss"] * (10 - CUT)
    logged = re.findall(r"lm loss: (\S+)", theirs.output)
    # Megatron's second line after a resume is the mean of its first two steps.
    mine = [f"{loss:.6E}" for loss in ours.losses[CUT:]]
    assert (mine[0], *mine[2:]) == (logged[0], *logged[2:])
