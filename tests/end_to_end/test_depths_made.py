"""Models with routed blocks, grown and upcycled, from plain ones and from routed ones."""

import json
import re
from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ledgers import held_out
from saved import tensors
from trainer import TINY, Job, Result, run, run_all

from tst_megatron.errors import UserError
from tst_megatron.methods.depths.router import first_numbers
from tst_megatron.methods.growth import checkpoint_grow

CUT, STEPS = 4, 10
COMMON = (
    *(*TINY, "--fixed-validation", "--use-distributed-optimizer"),
    "--dist-ckpt-optim-fully-reshardable",
)
ROUTED = ("--mod-capacity=0.25",)
DEEP = ("--num-layers=4",)
# A run that ends where its checkpoint does has a schedule of its own.
ENDED = ("--override-opt_param-scheduler", f"--train-iters={CUT}", "--save-interval=3")
EXPERTS = (
    *("--num-experts=4", "--moe-router-topk=2", "--upcycle-optimizer=keep"),
    *("--moe-token-dispatcher-type=alltoall", "--moe-router-load-balancing-type=none"),
)
MOMENTS = ("optimizer.state.exp_avg.", "optimizer.state.exp_avg_sq.")
STAGES = ("--pipeline-model-parallel-size=2",)
WIDE = ("--ffn-hidden-size=128",)
ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"} | {
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1",
}
# Flags, and what of the small models it is made of.
MADE = {
    "grown": ("routed", (*DEEP, "--grow=zero", *ROUTED)),
    "with other blocks": ("routed", (*DEEP, "--grow=stack", *ROUTED, "--mod-layers=3-4", *STAGES)),
    "with new routers": ("plain", (*DEEP, "--grow=zero", *ROUTED, "--mod-layers=3-4")),
    "without routers": ("routed", (*DEEP, "--grow=stack")),
    "upcycled": ("routed", (*EXPERTS, *ROUTED)),
    "upcycled, with new routers": ("plain", (*EXPERTS, *ROUTED)),
}


@pytest.fixture(scope="module")
def small(corpus, tmp_path_factory) -> dict[str, Job]:
    """Two layers each, of which the second is routed or not."""
    folder = tmp_path_factory.mktemp("small")
    ends = ("--save-interval=4", "--exit-interval=4", "--eval-interval=4")
    jobs = {
        name: Job(
            folder / name,
            (*COMMON, *corpus.flags, *own, *ends, f"--save={folder / name / 'kept'}"),
        )
        for name, own in (("plain", ()), ("routed", ROUTED))
    }
    run_all(list(jobs.values()))
    return jobs


def made(small: dict[str, Job], name: str, corpus, out: Path, *flags: str) -> Job:
    source, own = MADE[name]
    start = "--upcycle-from" if own[0] == EXPERTS[0] else "--load"
    rest = (f"{start}={kept(small[source])}", f"--save={out / 'kept'}", *flags)
    return Job(out, (*COMMON, *corpus.flags, *own, *rest), 2 if STAGES[0] in own else 1)


def kept(job: Job) -> Path:
    return job.out / "kept"


@pytest.fixture(scope="module")
def results(small, corpus, tmp_path_factory) -> dict[str, Result]:
    """Models as they are loaded: a run that ends where the small one did saves them."""
    root = tmp_path_factory.mktemp("made")
    jobs = [made(small, name, corpus, root / name, *ENDED) for name in MADE]
    return dict(zip(MADE, run_all(jobs), strict=True))


def of(result: Result) -> dict[str, torch.Tensor]:
    return tensors(result.ledger_file.parent / "kept", CUT)


def routers(found: dict[str, torch.Tensor], block: int) -> dict[str, torch.Tensor]:
    """A block's, with their moments, by their names without the block's number."""
    own = f"decoder.layers.{block - 1}.depth_router."
    return {
        name.replace(own, ""): value
        for name, value in found.items()
        if own in name and "state.param" not in name
    }


def losses(ledger: Path) -> dict[str, float]:
    """Of the last validation."""
    found = map(json.loads, ledger.read_text().splitlines())
    return held_out([line for line in found if line["kind"] == "validation"][-1])


@pytest.mark.parametrize("name", ["grown", "with new routers"])
def test_what_adds_nothing_leaves_the_loss(small, results, name):
    # Of one function: the same digits, by the rule and by rank.
    before = losses(small[MADE[name][0]].out / "ledger.jsonl")
    after = losses(results[name].ledger_file)
    assert {loss: after[loss] for loss in before} == before
    # Where no block was routed, there was no rank.
    assert after["lm loss by rank"] == before.get("lm loss by rank", before["lm loss"])


def test_experts_of_routed_blocks_leave_the_loss(small, results):
    before = losses(small["routed"].out / "ledger.jsonl")
    # But for the order of sums, as of upcycling without routers.
    assert losses(results["upcycled"].ledger_file) == pytest.approx(before, rel=4 * 2**-23)


def test_routers_are_their_source_s_or_new(small, results):
    before = tensors(kept(small["routed"]), CUT)
    own = routers(before, 2)
    assert len(own) == 5 + 2 * 3
    assert all(value.any() for name, value in own.items() if "up" in name)
    has = {
        "grown": {2: own, 4: own},
        "with other blocks": {2: {}, 3: None, 4: own},
        "with new routers": {3: None, 4: None},
        "without routers": {2: {}, 4: {}},
        "upcycled": {2: own},
        "upcycled, with new routers": {2: None},
    }
    for name, blocks in has.items():
        for block, wanted in blocks.items():
            found = routers(of(results[name]), block)
            if wanted is None:
                wanted = dict.fromkeys(own, torch.zeros(())) | first_numbers(
                    32, has_predictor=True, std=0.02, seed=1234, block=block
                )
            assert found.keys() == wanted.keys(), name
            for one, value in wanted.items():
                assert torch.equal(found[one], value.to(found[one].dtype).expand_as(found[one])), (
                    name,
                    block,
                    one,
                )
    told = "routers: the checkpoint's in block 4; new in block 3; dropped of block 2"
    assert told in results["with other blocks"].output


def test_layers_are_their_sources_whatever_they_are_kept_as(small, results):
    for name, has_axis in (("with other blocks", False), ("without routers", True)):
        before, after = tensors(kept(small["routed"]), CUT), of(results[name])
        for text, value in before.items():
            found = re.fullmatch(r"(.*decoder\.layers\.)([01])\.(.*)", text)
            if found is None or "depth_router" in text:
                continue
            block, layer, rest = found[1], int(found[2]), found[3]
            for copy in (layer, layer + 2):
                one = after[f"{block}{rest}"][copy] if has_axis else after[f"{block}{copy}.{rest}"]
                assert torch.equal(one, value)


def test_a_run_goes_on_and_its_resume_is_the_same(small, corpus, tmp_path):
    """New routers, whose warm-up begins with them; the steps before are the plain model's."""
    warmed = ("--mod-warmup-steps=4", "--save-interval=3", f"--train-iters={STEPS}")
    job = made(small, "with new routers", corpus, tmp_path / "whole", *warmed)
    whole = run(job)
    shares = [line["facts"].get("block_capacity", 1.0) for line in whole.ledger.steps]
    assert shares == [1.0] * 6 + [0.5] * 2 + [0.25] * 2
    again = tmp_path / "again"
    rest = (f"--load={kept(job)}", "--ckpt-step=6", f"--save={again / 'kept'}")
    resumed = run(Job(again, (*job.flags, *rest)))
    assert resumed.losses[-4:] == whole.losses[-4:]
    one, other = (tensors(place, STEPS) for place in (kept(job), again / "kept"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_cannot_be_made_is_one_sentence(small, corpus, tmp_path):
    auxiliary = made(
        small, "grown", corpus, tmp_path / "auxiliary", "--mod-sampling=auxiliary", *ENDED
    )
    wide = made(small, "grown", corpus, tmp_path / "wide", "--grow-width=zero", *WIDE, *ENDED)
    for job, says in (
        (auxiliary, "was trained with --mod-sampling predictor and --mod-choice router"),
        (wide, "has weights of depths, which are not known to widen"),
    ):
        # As torchrun starts it, at a port where nobody answers.
        refused = run(replace(job, environment=ALONE, torchrun=False), check=False)
        assert refused.code == 2
        assert says in refused.output
        assert "Traceback" not in refused.output
    parser = ArgumentParser()
    checkpoint_grow.add_arguments(parser)
    words = [str(kept(small["routed"])), str(tmp_path / "out"), "--num-layers=4", "--grow=stack"]
    with pytest.raises(UserError, match="has weights of depths, of which only a run's flags say"):
        checkpoint_grow.main(parser.parse_args(words))
