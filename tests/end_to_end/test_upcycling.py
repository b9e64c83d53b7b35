"""A dense model's run goes on in one with experts, through the real trainer, in every layout."""

from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ledgers import last_evaluated
from saved import tensors
from trainer import TINY, Job, Result, run, run_all

from tst_megatron.checkpoints.saved import Saved
from tst_megatron.methods.upcycling import checkpoint_upcycle
from tst_megatron.runs.inputs import read_runs

CUT, STEPS = 4, 10
RESHARDABLE = ("--use-distributed-optimizer", "--dist-ckpt-optim-fully-reshardable")
# Of the same samples every time, so that losses of one function are one number.
FIXED = "--fixed-validation"
# A run that ends where its checkpoint does has a schedule of its own.
ENDED = ("--override-opt_param-scheduler", f"--train-iters={CUT}")
ROUTED = ("--moe-token-dispatcher-type=alltoall", "--moe-router-load-balancing-type=none")
LAYER = "decoder.layers."
EXPERT = f"{LAYER}mlp.experts.experts."
MOMENTS = ("optimizer.state.exp_avg.", "optimizer.state.exp_avg_sq.")
STOCK = ("tests/stock_pretrain.py",)

# What is asked of the offline command too, and what is Megatron's own alone.
WAYS = {
    "copies": ("--num-experts=4", "--moe-router-topk=2", "--upcycle-optimizer=keep"),
    "shards": (
        *("--num-experts=8", "--moe-router-topk=4", "--moe-ffn-hidden-size=16"),
        "--upcycle-optimizer=keep",
    ),
    "shared": (
        *("--num-experts=6", "--moe-router-topk=3", "--moe-ffn-hidden-size=16"),
        "--moe-shared-expert-intermediate-size=16",
    ),
    "some": (
        *("--num-experts=4", "--moe-router-topk=2", "--moe-layer-freq=[0,1]"),
        *("--moe-router-score-function=sigmoid", "--moe-router-enable-expert-bias"),
    ),
    "drawn": (
        *("--num-experts=4", "--moe-router-topk=1", "--moe-router-pre-softmax"),
        *("--upcycle-drop=0.5", "--upcycle-noise=0.1", "--upcycle-optimizer=keep"),
    ),
}
EXACT = ("copies", "shards", "shared", "some")


@pytest.fixture(scope="module")
def dense(corpus, tmp_path_factory) -> Job:
    """Two layers; the fourth of ten steps is kept, and is where the others begin."""
    out = tmp_path_factory.mktemp("upcycling") / "dense"
    flags = (*TINY, *corpus.flags, *RESHARDABLE, f"--save={out / 'kept'}", "--save-interval=4")
    job = Job(out, (*flags, "--exit-interval=4", "--eval-interval=4", FIXED))
    run(job)
    return job


def kept(job: Job) -> Path:
    return job.out / "kept"


def upcycled(dense: Job, corpus, out: Path, *flags: str, ranks: int = 1) -> Job:
    own = (f"--upcycle-from={kept(dense)}", f"--save={out / 'kept'}", "--save-interval=3", FIXED)
    return Job(out, (*TINY, *corpus.flags, *RESHARDABLE, *ROUTED, *own, *flags), ranks)


@pytest.fixture(scope="module")
def at_once(dense: Job, corpus, tmp_path_factory) -> dict[str, Job]:
    """Models as they are loaded: a run that ends where the dense one did saves them."""
    root = tmp_path_factory.mktemp("at-once")
    jobs = {
        name: upcycled(dense, corpus, root / name, *ENDED, *flags) for name, flags in WAYS.items()
    }
    run_all(list(jobs.values()))
    return jobs


@pytest.mark.parametrize("name", EXACT)
def test_the_function_is_the_dense_model_s(dense, at_once, name):
    ends = [last_evaluated(job.out / "ledger.jsonl", CUT) for job in (dense, at_once[name])]
    # Of one function: the same digits but for the order of sums, all of a float32 loss near 6.
    assert ends[1] == pytest.approx(ends[0], rel=4 * 2**-23)
    method = Saved(kept(at_once[name]) / "iter_0000004").args.methods["upcycling"]
    assert method["facts"]["is_exact"]


def test_every_expert_is_its_shard_with_its_moments(dense, at_once):
    before, after = (tensors(kept(job), CUT) for job in (dense, at_once["shards"]))
    gate, up = before[f"{LAYER}mlp.linear_fc1.weight"].chunk(2, dim=1)
    down = before[f"{LAYER}mlp.linear_fc2.weight"]
    for expert in range(8):
        units = slice(16 * (expert % 4), 16 * (expert % 4) + 16)
        # The root of four shards is 2, so that nothing is rounded.
        wanted = torch.cat([gate[:, units], 2 * up[:, units]], dim=1)
        assert torch.equal(after[f"{EXPERT}linear_fc1.weight"][:, expert], wanted)
        assert torch.equal(after[f"{EXPERT}linear_fc2.weight"][:, expert], 2 * down[..., units])
        for power, prefix in enumerate(MOMENTS, 1):
            gate_state, up_state = before[f"{prefix}{LAYER}mlp.linear_fc1.weight"].chunk(2, dim=1)
            wanted = torch.cat([gate_state[:, units], up_state[:, units] / 2**power], dim=1)
            assert torch.equal(after[f"{prefix}{EXPERT}linear_fc1.weight"][:, expert], wanted)
    router = after[f"{LAYER}mlp.router.weight"]
    assert torch.equal(router[:, 0], router[:, 3])
    assert not torch.equal(router[:, 0], router[:, 4])
    # 2 layers of 2 rows of 32: their root mean square is within five of its own errors.
    error = 0.02 / (2 * 128) ** 0.5
    assert router[:, ::4].square().mean().sqrt().item() == pytest.approx(0.02, abs=5 * error)


def test_shared_experts_hold_the_first_shards(dense, at_once):
    before, after = (tensors(kept(job), CUT) for job in (dense, at_once["shared"]))
    gate, up = before[f"{LAYER}mlp.linear_fc1.weight"].chunk(2, dim=1)
    shared = after[f"{LAYER}mlp.shared_experts.linear_fc1.weight"]
    assert torch.equal(shared, torch.cat([gate[:, :16], up[:, :16]], dim=1))
    first = after[f"{EXPERT}linear_fc1.weight"][:, 0]
    assert torch.equal(first[:, :16], gate[:, 16:32])


def test_layers_that_are_not_chosen_stay_dense(dense, at_once):
    before, after = (tensors(kept(job), CUT) for job in (dense, at_once["some"]))
    for part in ("linear_fc1", "linear_fc2"):
        whole = before[f"{LAYER}mlp.{part}.weight"]
        assert torch.equal(after[f"{LAYER}0.mlp.{part}.weight"], whole[0])
        for expert in range(4):
            own = after[f"{LAYER}1.mlp.experts.experts.{part}.weight"][expert]
            assert torch.equal(own, whole[1])
    assert not after[f"{LAYER}1.mlp.router.expert_bias"].any()
    moments = [key for key in after if key.startswith(MOMENTS)]
    assert moments
    assert not any(after[key].any() for key in moments)


def test_units_that_are_drawn_anew_are_one_set(dense, at_once):
    before, after = (tensors(kept(job), CUT) for job in (dense, at_once["drawn"]))
    # Experts are the dense MLP times the root of four, as one of four is taken of even odds.
    for layer in range(2):
        chosen = []
        for expert in range(4):
            states = [
                after[f"{MOMENTS[0]}{EXPERT}{part}.weight"][layer, expert]
                for part in ("linear_fc1", "linear_fc2")
            ]
            gate, up = states[0].chunk(2)
            anew = [~gate.any(dim=1), ~up.any(dim=1), ~states[1].any(dim=0)]
            assert torch.equal(anew[0], anew[1])
            assert torch.equal(anew[0], anew[2])
            assert anew[0].sum() == 32
            chosen.append(anew[0])
            up = 2 * before[f"{LAYER}mlp.linear_fc1.weight"][layer].chunk(2)[1]
            own = after[f"{EXPERT}linear_fc1.weight"][layer, expert].chunk(2)[1]
            apart = (own - up).square().mean(dim=1).sqrt() / up.std()
            # Noise of a tenth where units stay; of those drawn, 32 numbers a row, about root two.
            assert apart[~anew[0]].max() < 0.2
            assert apart[anew[0]].min() > 0.5
        assert not torch.equal(chosen[0], chosen[1])


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("drawn", ("--expert-model-parallel-size=2",)),
        ("shared", ("--tensor-model-parallel-size=2", "--sequence-parallel")),
        ("some", ("--pipeline-model-parallel-size=2", "--ckpt-fully-parallel-load")),
    ],
)
def test_any_layout_makes_the_same_model(dense, at_once, corpus, tmp_path, name, layout):
    run(upcycled(dense, corpus, tmp_path, *ENDED, *WAYS[name], *layout, ranks=2))
    assert not differing(tmp_path / "kept", kept(at_once[name]))


def saved_again(dense: Job, corpus, out: Path, *flags: str, ranks: int = 1) -> Job:
    """The dense model's checkpoint, as a run with other flags keeps it."""
    where = (f"--load={kept(dense)}", f"--save={out / 'kept'}", "--save-interval=3", FIXED)
    job = Job(out, (*TINY, *corpus.flags, *where, *ENDED, *flags), ranks)
    run(job)
    return job


@pytest.mark.parametrize("axis", ["tensor", "pipeline"])
def test_from_any_layout(dense, at_once, corpus, tmp_path, axis):
    layout = f"--{axis}-model-parallel-size=2"
    two = saved_again(dense, corpus, tmp_path / "two", *RESHARDABLE, layout, ranks=2)
    offline(kept(two), tmp_path / "made", *WAYS["drawn"])
    assert not differing(tmp_path / "made", kept(at_once["drawn"]))


def test_an_optimizer_in_buckets_is_left(dense, at_once, corpus, tmp_path):
    """Which another layout could not go on from."""
    buckets = saved_again(dense, corpus, tmp_path / "buckets", RESHARDABLE[0])
    flags = (*WAYS["shared"], "--tensor-model-parallel-size=2", "--sequence-parallel")
    run(upcycled(buckets, corpus, tmp_path / "made", *ENDED, *flags, ranks=2))
    mine, theirs = (
        tensors(place, CUT) for place in (tmp_path / "made/kept", kept(at_once["shared"]))
    )
    assert mine.keys() == theirs.keys()
    assert any(name.startswith("optimizer.") for name in mine)
    apart = [name for name in theirs if not torch.equal(mine[name], theirs[name])]
    assert [name for name in apart if not name.startswith(_RUN)] == []


def differing(one: Path, other: Path) -> list[str]:
    """Names of what is not the same in two checkpoints of the step, bit for bit."""
    mine, theirs = (
        {name: value for name, value in tensors(place, CUT).items() if not name.startswith(_RUN)}
        for place in (one, other)
    )
    missing = theirs.keys() - mine.keys()
    # A norm before experts has two names in a checkpoint that is for either kind of layer.
    assert not missing
    assert all("pre_mlp_layernorm" in name for name in mine.keys() - theirs.keys())
    return [name for name, value in theirs.items() if not torch.equal(mine[name], value)]


_RUN = ("rng_state", "rerun_state")


@pytest.mark.parametrize("name", WAYS)
def test_the_offline_command_makes_the_same(dense, at_once, tmp_path, name):
    offline(kept(dense), tmp_path / "made", *WAYS[name])
    assert not differing(tmp_path / "made", kept(at_once[name]))
    written = sum(file.stat().st_size for file in (tmp_path / "made").rglob("__new_*"))
    if name == "copies":
        # Four experts are one on the disk, with the masters and both moments.
        experts = 4 * (4 * 4) * 2 * 3 * 64 * 32
        assert written < experts / 2


def offline(dense: Path, out: Path, *flags: str) -> None:
    parser = ArgumentParser()
    checkpoint_upcycle.add_arguments(parser)
    checkpoint_upcycle.main(parser.parse_args([str(dense), str(out), *flags]))


@pytest.fixture(scope="module")
def unbroken(dense, corpus, tmp_path_factory) -> Result:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    return run(upcycled(dense, corpus, out, *WAYS["drawn"]))


def test_one_run_with_the_dense_one(dense, unbroken):
    lines = unbroken.ledger.steps
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert lines[CUT]["positions"] == (CUT + 1) * 4 * 16
    # Warmed up in the dense model's steps; the last three of ten decay.
    rates = [line["learning_rate"] for line in lines[CUT:]]
    assert rates[:2] == [1e-2] * 2
    assert rates[-1] < rates[-2] < rates[-3] < 1e-2
    (method,) = unbroken.ledger.header["methods"]
    assert [stage["name"] for stage in method["stages"]] == ["dense", "single tokens"]
    assert [stage["samples"] for stage in method["stages"]] == [CUT * 4, (STEPS - CUT) * 4]
    assert method["facts"]["experts"] == [0, 4]
    told = read_runs([unbroken.ledger_file])[0]
    assert told is not None


def test_the_same_command_goes_on_from_what_was_made(dense, unbroken, corpus, tmp_path):
    job = upcycled(dense, corpus, tmp_path, *WAYS["drawn"])
    run(replace(job, flags=(*job.flags, "--exit-interval=6")))
    assert (tmp_path / "kept/iter_0000006").is_dir()
    ended = run(job)
    assert ended.losses == unbroken.losses
    mine, theirs = (
        tensors(place, STEPS) for place in (tmp_path / "kept", unbroken.ledger_file.parent / "kept")
    )
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    again = run(replace(job, flags=(*job.flags, "--upcycle-drop=0.25")), check=False)
    assert again.code == 2
    assert "was upcycled with drop 0.5, and that is done" in again.output


def test_experts_become_more_and_stock_megatron_goes_on(corpus, tmp_path):
    """The offline command, of experts in bf16 with a plain optimizer."""
    common = (*TINY, *corpus.flags, *ROUTED, "--bf16")
    few = (*common, "--num-experts=2", "--moe-shared-expert-intermediate-size=16")
    first = Job(tmp_path / "few", (*few, f"--save={tmp_path / 'few/kept'}", "--save-interval=4"))
    run(replace(first, flags=(*first.flags, "--exit-interval=4")))
    offline(kept(first), tmp_path / "more", "--num-experts=4", "--upcycle-optimizer=keep")
    before, after = tensors(kept(first), CUT), tensors(tmp_path / "more", CUT)
    for prefix in ("", *MOMENTS, "optimizer.state.fp32_param."):
        for part in ("linear_fc1", "linear_fc2"):
            name = f"{prefix}{EXPERT}{part}.weight"
            for expert in range(4):
                assert torch.equal(after[name][:, expert], before[name][:, expert // 2])
    rows = [found[f"{LAYER}mlp.router.weight"].float() for found in (before, after)]
    assert torch.equal(rows[1][:, ::2], rows[0])
    apart = rows[1][:, 1::2] - rows[0]
    assert 0 < apart.abs().max() < 0.01
    master = after[f"optimizer.state.fp32_param.{LAYER}mlp.router.weight"]
    assert torch.equal(master.bfloat16(), after[f"{LAYER}mlp.router.weight"])
    own = (f"--upcycle-from={kept(first)}", f"--save={tmp_path / 'two/kept'}", "--save-interval=3")
    flags = (*few, "--num-experts=4", "--upcycle-optimizer=keep", *own, *ENDED)
    run(Job(tmp_path / "two", (*flags, "--expert-model-parallel-size=2"), 2))
    assert not differing(tmp_path / "more", tmp_path / "two/kept")
    balanced = ("--moe-router-score-function=sigmoid", "--moe-router-enable-expert-bias")
    run(Job(tmp_path / "biased", (*flags, f"--save={tmp_path / 'biased/kept'}", *balanced)))
    bias = tensors(tmp_path / "biased/kept", CUT)[f"{LAYER}mlp.router.expert_bias"]
    assert bias.shape == (2, 4)
    assert not bias.any()
    more = (
        "--num-experts=4",
        f"--load={tmp_path / 'more'}",
        "--exit-interval=6",
        "--save-interval=3",
    )
    out = tmp_path / "stock"
    result = run(Job(out, (*few, *more, f"--save={out / 'kept'}"), program=STOCK))
    assert "iteration        6/" in result.output


def test_a_hybrid_model_gets_experts(corpus, tmp_path):
    plain = tuple(flag for flag in TINY if "--num-layers" not in flag)
    common = (*plain, *corpus.flags, *ROUTED, FIXED, "--num-experts=4", "--moe-router-topk=2")
    first = Job(
        tmp_path / "dense",
        (*common, "--hybrid-layer-pattern=*-*-", f"--save={tmp_path / 'dense/kept'}"),
    )
    end = ("--exit-interval=4", "--save-interval=4", "--eval-interval=4")
    run(replace(first, flags=(*first.flags, *end)))
    own = (f"--upcycle-from={kept(first)}", f"--save={tmp_path / 'made/kept'}")
    flags = (*common, "--hybrid-layer-pattern=*-*E", *own, "--save-interval=3", *ENDED)
    made = Job(tmp_path / "made", flags)
    run(made)
    offline(kept(first), tmp_path / "offline", "--num-experts=4", "--hybrid-layer-pattern=*-*E")
    assert not differing_of_hybrid(tmp_path / "offline", kept(made))
    ends = [last_evaluated(job.out / "ledger.jsonl", CUT) for job in (first, made)]
    assert ends[1] == pytest.approx(ends[0], rel=4 * 2**-23)


def differing_of_hybrid(one: Path, other: Path) -> list[str]:
    """As `differing`, where every norm has two names."""
    mine, theirs = (tensors(place, CUT) for place in (one, other))
    named = {name: value for name, value in theirs.items() if not name.startswith(_RUN)}
    assert named.keys() <= mine.keys()
    return [name for name, value in named.items() if not torch.equal(mine[name], value)]
