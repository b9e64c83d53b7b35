"""A small model's run goes on in a wider one, through the real trainer, in layouts and on disk."""

from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ledgers import last_evaluated
from saved import tensors
from trainer import TINY, Job, run, run_all

from tst_megatron.checkpoints.saved import Saved
from tst_megatron.methods.growth import checkpoint_grow
from tst_megatron.methods.growth.width import Width, tensors_of
from tst_megatron.stock.sizes import sizes_of

CUT, STEPS = 4, 10
RESHARDABLE = ("--use-distributed-optimizer", "--dist-ckpt-optim-fully-reshardable")
# Of the same samples every time, so that losses of one function are one number.
FIXED = "--fixed-validation"
# A run that ends where its checkpoint does has a schedule of its own.
ENDED = ("--override-opt_param-scheduler", f"--train-iters={CUT}")
GROUPED = ("--group-query-attention", "--num-query-groups=2")
SIZES = ("--hidden-size=64", "--ffn-hidden-size=128", "--num-attention-heads=8")
WIDE = (*SIZES, "--num-query-groups=4")
# Epsilon of a half, as its part in a mean over twice as many units is.
EXACT_ZERO = ("--grow-width=zero", "--norm-epsilon=5e-6")
BOTH = ("--grow-width=direct", "--grow=stack", "--num-layers=4", "--grow-noise=0.1")
MOMENTS = {"optimizer.state.exp_avg.": 1, "optimizer.state.exp_avg_sq.": 2}
# As GPT-2 is: ties, biases, norms with a mean, learned positions.
GPT2 = tuple(
    flag
    for flag in TINY
    if not flag.startswith(
        ("--normalization", "--swiglu", "--disable-bias", "--untie", "--position-embedding")
    )
)


@pytest.fixture(scope="module")
def small(corpus, tmp_path_factory) -> dict[str, Job]:
    """Two layers; the fourth of ten steps is kept, and is where the others begin."""
    root = tmp_path_factory.mktemp("width")
    end = ("--save-interval=4", "--exit-interval=4", "--eval-interval=4", FIXED)
    models = {"llama": (*TINY, *GROUPED, *RESHARDABLE), "gpt2": (*GPT2, "--bf16")}
    jobs = {
        name: Job(root / name, (*flags, *corpus.flags, *end, f"--save={root / name / 'kept'}"))
        for name, flags in models.items()
    }
    run_all(list(jobs.values()))
    return jobs


def kept(job: Job) -> Path:
    return job.out / "kept"


def grown(small: Job, corpus, out: Path, *flags: str, ranks: int = 1) -> Job:
    own = (f"--load={kept(small)}", f"--save={out / 'kept'}", "--save-interval=3", FIXED)
    return Job(out, (*TINY, *GROUPED, *RESHARDABLE, *corpus.flags, *own, *WIDE, *flags), ranks)


@pytest.fixture(scope="module")
def at_once(small, corpus, tmp_path_factory) -> dict[str, Job]:
    """Grown models as they are loaded: a run that ends where the small one did saves them."""
    root = tmp_path_factory.mktemp("at-once")
    ways = {"direct": ("--grow-width=direct",), "zero": EXACT_ZERO, "both": BOTH}
    jobs = {
        name: grown(small["llama"], corpus, root / name, *ENDED, *flags)
        for name, flags in ways.items()
    }
    gpt2 = (*GPT2, "--bf16", *corpus.flags, *SIZES, "--grow-width=direct", *ENDED, FIXED)
    own = (f"--load={kept(small['gpt2'])}", f"--save={root / 'gpt2/kept'}", "--save-interval=3")
    jobs["gpt2"] = Job(root / "gpt2", (*gpt2, *own))
    run_all(list(jobs.values()))
    return jobs


def last_loss(job: Job) -> float:
    return last_evaluated(job.out / "ledger.jsonl", CUT)


@pytest.mark.parametrize("name", ["direct", "zero"])
def test_the_function_is_the_small_model_s(small, at_once, name):
    """Nine matrices on the way of a sum, each a float32's rounding of at most 128 terms away, root
    of that as they fall either way; logits stay below 8.
    """
    bound = 9 * 128**0.5 * 2**-24 * 8
    assert last_loss(at_once[name]) == pytest.approx(last_loss(small["llama"]), abs=bound)


def test_the_function_in_bfloat16_is_the_small_model_s_but_for_its_rounding(small, at_once):
    """As above: each of nine matrices rounds what it gives once, and its parts once, by at most
    2**-9 of logits that are about one; five roots of the sum of these squares.
    """
    bound = 5 * (9 * 2) ** 0.5 * 2**-9
    assert last_loss(at_once["gpt2"]) == pytest.approx(last_loss(small["gpt2"]), abs=bound)


def test_noise_is_seen_in_the_loss(small, at_once):
    """What these losses are compared by tells another function."""
    assert abs(last_loss(at_once["both"]) - last_loss(small["llama"])) > 1e-3


@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_copies_add_up_in_every_tensor_with_their_moments(small, at_once, model):
    wide = at_once["direct" if model == "llama" else model]
    before, after = (tensors(kept(job), CUT) for job in (small[model], wide))
    args = Saved(kept(small[model]) / f"iter_{CUT:07d}").args
    large = Saved(kept(wide) / f"iter_{CUT:07d}").args
    is_tied = model == "gpt2"
    kinds = tensors_of(Width("direct", sizes_of(args), sizes_of(large)), args, is_tied)
    master = "optimizer.state.fp32_param." if is_tied else "optimizer.state.param."
    checked = 0
    for key in before:
        if key.startswith(("optimizer.", "rng_state", "rerun_state")):
            continue
        name = key.removeprefix("decoder.layers.")
        kind, axes = kinds[name], int(name != key)
        prefixes = {master: 0} | MOMENTS | ({} if is_tied else {"": 0})
        for prefix, power in prefixes.items():
            one, other = before[prefix + key], after[prefix + key]
            if not power and kind.scale != 1:
                one = one * kind.scale
            for at, axis in enumerate(kind.axes, axes):
                if axis is None:
                    continue
                reads = kind.reads and at == axes + 1
                sources = torch.tensor(axis.sources)
                if not power and reads:
                    total = torch.zeros_like(other.index_select(at, torch.arange(axis.small)))
                    other = total.double().index_add(at, sources, other.double())
                else:
                    one = one.index_select(at, sources)
                    # Of two copies each has half of the gradient, of a part all.
                    if power and not reads:
                        one = one / 2**power * kind.scale**-power
            assert torch.equal(other.double(), one.double()), prefix + key
            checked += 1
        if is_tied:
            assert torch.equal(after[key], after[master + key].bfloat16())
    assert checked == (4 * 9 if model == "llama" else 3 * 16)


def test_new_units_write_nothing_and_their_moments_are_0(small, at_once):
    before, after = (tensors(kept(job), CUT) for job in (small["llama"], at_once["zero"]))
    layer = "decoder.layers."
    fc2, norm = f"{layer}mlp.linear_fc2.weight", f"{layer}mlp.linear_fc1.layer_norm_weight"
    assert torch.equal(after[fc2][:, :32, :64], before[fc2])
    assert after[fc2].count_nonzero() == before[fc2].count_nonzero()
    torch.testing.assert_close(after[norm][:, :32], before[norm] * 0.5**0.5, rtol=2**-23, atol=0)
    assert (after[norm][:, 32:] == 1).all()
    fc1 = f"{layer}mlp.linear_fc1.weight"
    gates, ups = after[fc1].chunk(2, dim=1)
    assert torch.equal(torch.cat([gates[:, :64, :32], ups[:, :64, :32]], dim=1), before[fc1])
    # 2 layers of 128 new units that read 64: their root mean square is within five of its errors.
    drawn = torch.cat([gates[:, 64:], ups[:, 64:]], dim=1)
    error = 0.02 / (2 * drawn.numel()) ** 0.5
    assert drawn.square().mean().sqrt().item() == pytest.approx(0.02, abs=5 * error)
    for prefix in MOMENTS:
        moment = after[prefix + fc1]
        assert moment.count_nonzero() == before[prefix + fc1].count_nonzero()


@pytest.mark.parametrize(
    ("name", "flags", "layout"),
    [
        ("direct", ("--grow-width=direct",), ("--tensor-model-parallel-size=2",)),
        ("both", BOTH, ("--pipeline-model-parallel-size=2", "--ckpt-fully-parallel-load")),
    ],
)
def test_any_layout_grows_the_same_model(small, at_once, corpus, tmp_path, name, flags, layout):
    run(grown(small["llama"], corpus, tmp_path, *ENDED, *flags, *layout, ranks=2))
    assert not differing(tmp_path / "kept", kept(at_once[name]))


@pytest.mark.parametrize("name", ["direct", "zero", "both", "gpt2"])
def test_the_offline_command_makes_the_same(small, at_once, tmp_path, name, capsys):
    job = at_once[name]
    sizes = SIZES if name == "gpt2" else WIDE
    asked = [flag for flag in job.flags if flag.startswith("--grow")]
    layers = ["--num-layers=4"] if name == "both" else []
    source = small["gpt2" if name == "gpt2" else "llama"]
    parser = ArgumentParser()
    checkpoint_grow.add_arguments(parser)
    words = [str(kept(source)), str(tmp_path / "grown"), *sizes, *asked, *layers]
    checkpoint_grow.main(parser.parse_args(words))
    assert not differing(tmp_path / "grown", kept(job))
    said = capsys.readouterr().out
    assert "hidden size 32 to 64, " in said
    flags = "--hidden-size 64 --ffn-hidden-size 128 --num-attention-heads 8"
    assert f"{flags}{'' if name == 'gpt2' else ' --num-query-groups 4'}\n" in said


def differing(one: Path, other: Path) -> list[str]:
    """Names of what is not the same in two checkpoints of the step, bit for bit."""
    run_s = ("rng_state", "rerun_state")
    mine, theirs = (
        {name: value for name, value in tensors(place, CUT).items() if not name.startswith(run_s)}
        for place in (one, other)
    )
    assert mine.keys() == theirs.keys()
    return [name for name, value in theirs.items() if not torch.equal(mine[name], value)]


def test_the_same_command_goes_on_from_what_has_grown(small, corpus, tmp_path):
    jobs = [grown(small["llama"], corpus, tmp_path / name, *BOTH) for name in ("whole", "cut")]
    cut = replace(jobs[1], flags=(*jobs[1].flags, "--exit-interval=6"))
    whole, _ = run_all([jobs[0], cut])
    assert (tmp_path / "cut/kept/iter_0000006").is_dir()
    ended = run(jobs[1])
    assert ended.losses == whole.losses
    mine, theirs = (tensors(tmp_path / name / "kept", STEPS) for name in ("cut", "whole"))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    (method,) = whole.ledger.header["methods"]
    names = [stage["name"] for stage in method["stages"]]
    assert names == ["2 layers of hidden size 32", "single tokens"]
    assert method["stages"][1]["facts"]["hidden_size"] == 64
    assert method["facts"]["sizes"]["num_query_groups"] == [2, 4]
    costs = [line["flops"] for line in whole.ledger.steps]
    assert costs[CUT] - costs[CUT - 1] > 3 * costs[0]
    # What it was and what it is are said once more by nobody: another way is refused.
    again = run(replace(jobs[1], flags=(*jobs[1].flags, "--grow-width=zero")), check=False)
    assert again.code == 2
    assert "has grown with width direct, and growth is done" in again.output
