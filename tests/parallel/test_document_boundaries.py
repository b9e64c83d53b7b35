"""Bags that end with their documents, through the real trainer: layouts, packing, resumes."""

from pathlib import Path

import pytest
import torch
from ledgers import bag_loss, bag_size, held_out
from matrix import DEPTH, SCHEDULE, _tiny
from rich.console import Console
from saved import parameters, tensors
from trainer import Job, Result, run, run_all

from tst_megatron.runs.ledger import read_ledger

STEPS = 10
_LEARNED = _tiny(num_layers=str(DEPTH), position_embedding_type="learned_absolute")
MODEL = tuple(flag for flag in _LEARNED if "attention-mask-in" not in flag)
DOCUMENT = "--tst-bag-boundary=document"
RESETS = ("--reset-position-ids", "--reset-attention-mask", "--eod-mask-loss")
PACKED = ("--dataloader-inter-document-masking", "--eod-mask-loss")
HEADS = ("--mtp-num-layers=2", "--position-embedding-type=rope")
# Without the last flag Megatron averages over each context-parallel rank's own unmasked positions.
NO_MASK = (
    *("--no-create-attention-mask-in-dataloader", "--reset-position-ids", "--eod-mask-loss"),
    "--calculate-per-token-loss",
)
_TP = "--tensor-model-parallel-size=2"
_SP = "--sequence-parallel"
_PP = "--pipeline-model-parallel-size=2"
_CP = "--context-parallel-size=2"

# Name: the flags, and those of each layout that must train as one rank does.
RUNS: dict[str, tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]] = {
    "resets": (RESETS, ((_TP,), (_PP,))),
    "packed": (PACKED, ((_TP, _SP),)),
    # Between pipeline stages Megatron does not pack a micro-batch of several samples.
    "packed-one-by-one": ((*PACKED, "--micro-batch-size=1"), ((_PP,),)),
    "no-mask": (NO_MASK, ((_CP,),)),
    "output": ((*PACKED, "--tst-superpose=output"), ((_TP,),)),
    "input": ((*RESETS, "--tst-superpose=input"), ()),
    "heads": ((*PACKED, *HEADS), ((_TP, _SP),)),
    "mce-alt": (("--tst-objective=mce-alt", "--num-workers=1"), ()),
    "power": (("--tst-bag-weights=power",), ()),
}


@pytest.fixture(scope="module")
def lines(corpus, tmp_path_factory) -> tuple[str, ...]:
    """The corpus indexed in short documents, as data flags: many bags end with one."""
    from tst_megatron.corpora.small_corpora import index_documents

    folder = tmp_path_factory.mktemp("lines")
    documents = [line for text in corpus.documents for line in text.splitlines() if line.strip()]
    index_documents(documents[:6000], corpus.tokenizer, folder / "lines", Console(quiet=True))
    return (
        f"--tokenizer-model={corpus.tokenizer}",
        f"--data-path={folder / 'lines'}",
        f"--data-cache-path={folder / 'cache'}",
    )


@pytest.fixture(scope="module")
def results(lines, tmp_path_factory) -> dict[tuple[str, tuple[str, ...]], tuple[Job, Result]]:
    """Every run of the table, by name and layout, from the same weights."""
    root = tmp_path_factory.mktemp("documents")
    # The first step's learning rate is 0: a few steps make them tell.
    save = ("--save-interval=3", "--exit-interval=3")
    run_all(
        [
            Job(root / of, (*MODEL, *lines, *own, *save, f"--save={root / of}"))
            for of, own in (("start", ()), ("start-with-heads", HEADS))
        ]
    )
    jobs = {}
    for name, (own, layouts) in RUNS.items():
        start = root / ("start-with-heads" if name == "heads" else "start")
        for layout in ((), *layouts):
            out = root / f"{name}{len(jobs)}"
            flags = (
                *(*MODEL, *lines, SCHEDULE, DOCUMENT, *own, *layout),
                *(f"--load={start}", "--finetune", f"--save={out / 'checkpoints'}"),
                *(f"--save-interval={STEPS}", "--no-save-optim", "--no-save-rng"),
                *("--fixed-validation", "--eval-interval=2"),
            )
            jobs[name, layout] = Job(out, flags, 2 if layout else 1)
    done = run_all(list(jobs.values()))
    return {key: (job, result) for (key, job), result in zip(jobs.items(), done, strict=True)}


LAYOUTS = [(name, layout) for name, (_, layouts) in RUNS.items() for layout in layouts]


@pytest.mark.parametrize(("name", "layout"), LAYOUTS, ids=str)
def test_a_layout_trains_as_one_rank_does(results, name: str, layout: tuple[str, ...]) -> None:
    (one_job, one), (job, several) = results[name, ()], results[name, layout]
    assert [bag_size(line) for line in one.ledger.steps] == [4, 4, 4, 2, 2, 1, 1, 1, 1, 1]
    assert several.losses == pytest.approx(one.losses, rel=1e-5)
    assert several.grad_norms == pytest.approx(one.grad_norms, rel=1e-5)
    for mine, theirs in zip(several.ledger.validations, one.ledger.validations, strict=True):
        assert held_out(mine) == pytest.approx(held_out(theirs), rel=1e-5)
    theirs = parameters(one_job.out / "checkpoints", STEPS)
    for key, mine in parameters(job.out / "checkpoints", STEPS).items():
        assert (mine - theirs[key]).norm() <= 1e-5 * theirs[key].norm(), key


@pytest.mark.parametrize("name", RUNS)
def test_a_run_validates_in_bags_of_documents(results, name: str) -> None:
    validations = results[name, ()][1].ledger.validations
    with_bags = [line["step"] for line in validations if bag_loss(line) is not None]
    assert with_bags == [2, 4]
    assert all((bag_loss(line) or 0) > 0 for line in validations[:2])


def test_ways_to_keep_documents_apart_are_several(results) -> None:
    """No flag is without effect."""
    losses = [results[name, ()][1].losses for name in ("resets", "packed", "no-mask", "power")]
    assert len({tuple(some) for some in losses}) == len(losses)
    # Without rotary positions, packing is masking and counting positions anew: Megatron's two ways
    # of saying one thing, where every document ends with its token.
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("own", [RESETS, PACKED], ids=["resets", "packed"])
def test_a_resumed_run_is_the_unbroken_one(lines, tmp_path: Path, own: tuple[str, ...]) -> None:
    flags = (*MODEL, *lines, SCHEDULE, DOCUMENT, *own)
    checkpoints = tmp_path / "unbroken" / "checkpoints"
    unbroken = Job(tmp_path / "unbroken", (*flags, f"--save={checkpoints}", "--save-interval=1"))
    whole = run(unbroken)
    cuts = (2, 4)
    jobs = {
        cut: Job(
            tmp_path / str(cut),
            (
                *(*flags, f"--save={tmp_path / str(cut) / 'checkpoints'}"),
                *(f"--load={checkpoints}", f"--ckpt-step={cut}", "--save-interval=10"),
            ),
        )
        for cut in cuts
    }
    for cut, rest in zip(cuts, run_all(list(jobs.values())), strict=True):
        assert rest.losses == whole.losses[cut:]
        assert rest.grad_norms == whole.grad_norms[cut:]
        theirs = tensors(checkpoints, STEPS)
        for name, mine in tensors(jobs[cut].out / "checkpoints", STEPS).items():
            assert torch.equal(mine, theirs[name]), name
    other = tuple(flag for flag in flags if flag != DOCUMENT and flag not in own)
    refused = run(Job(tmp_path / "other", (*other, f"--load={checkpoints}")), check=False)
    assert refused.code == 2
    assert '"bag_boundary": "document"' in refused.output
    assert '"bag_boundary": "any"' in refused.output


def test_bags_of_one_are_those_of_the_running_text(lines, tmp_path: Path) -> None:
    flags = (*MODEL, *lines, "--tst-bag-size=1", "--tst-step-ratio=0.5")
    running, of_documents = run_all(
        [Job(tmp_path / "any", flags), Job(tmp_path / "document", (*flags, DOCUMENT))]
    )
    assert of_documents.losses == running.losses
    assert of_documents.grad_norms == running.grad_norms


def test_bags_of_one_with_resets_are_megatrons_own_steps(lines, tmp_path: Path) -> None:
    """Bags of one take our path; what Megatron's takes for an ordinary run has the same numbers."""
    jobs = []
    for own in (RESETS, PACKED):
        flags = (*MODEL, *lines, *own)
        bags = ("--tst-bag-size=1", "--tst-step-ratio=0.5", DOCUMENT)
        jobs += [
            Job(tmp_path / f"{own[0]}-ordinary", flags),
            Job(tmp_path / f"{own[0]}-bags", (*flags, *bags)),
        ]
    run_all(jobs)
    for ordinary, bags in (jobs[:2], jobs[2:]):
        steps = [read_ledger(job.out / "ledger.jsonl").steps for job in (ordinary, bags)]
        losses = [[(line["loss"], line["grad_norm"]) for line in one] for one in steps]
        assert losses[0] == losses[1]


def test_routed_blocks_choose_of_a_pack_as_of_a_masked_sample(lines, tmp_path: Path) -> None:
    """As many tokens of each sample, which attend within their documents, at their places there."""
    rope = [flag for flag in MODEL if not flag.startswith("--position-embedding-type")]
    usual = (*rope, "--position-embedding-type=rope", *lines, "--eval-iters=0")
    routed = (*usual, "--mod-capacity=0.5", "--mod-parts=4", "--init-method-std=0.2")
    start = tmp_path / "start"
    run(Job(start, (*routed, f"--save={start}", "--save-interval=3", "--exit-interval=3")))
    jobs = [
        Job(tmp_path / name, (*routed, *own, f"--load={start}", "--finetune"), ranks)
        for name, own, ranks in (
            ("masked", RESETS, 1),
            ("packed", PACKED, 1),
            ("packed-tp2-sp", (*PACKED, _TP, _SP), 2),
        )
    ]
    masked, *packed = run_all(jobs)
    for one in packed:
        assert one.losses == pytest.approx(masked.losses, rel=1e-5)
        assert one.grad_norms == pytest.approx(masked.grad_norms, rel=1e-4)
