"""A small model's run goes on in a deeper one, through the real trainer, in every layout."""

from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ledgers import last_evaluated
from rich.console import Console
from saved import parameters, tensors
from trainer import TINY, Job, Result, run, run_all

from tst_megatron.checkpoints.keyed_noise import noise
from tst_megatron.corpora.small_corpora import index_documents
from tst_megatron.corpora.tokenizers.training import train_tokenizer
from tst_megatron.methods.growth import checkpoint_grow
from tst_megatron.methods.growth.layers import layer_map
from tst_megatron.methods.growth.noise import standard_deviation
from tst_megatron.runs.ledger import read_ledger

SMALL, LARGE, CUT, STEPS = 2, 4, 4, 10
LAYER = "decoder.layers."
RESHARDABLE = ("--use-distributed-optimizer", "--dist-ckpt-optim-fully-reshardable")
# Of the same samples every time, so that losses of one function are one number.
FIXED = "--fixed-validation"
# A run that ends where its checkpoint does has a schedule of its own.
ENDED = ("--override-opt_param-scheduler",)


@pytest.fixture(scope="module")
def small(corpus, tmp_path_factory) -> Job:
    """Two layers; the fourth of ten steps is kept, and is where the others begin."""
    out = tmp_path_factory.mktemp("growth") / "small"
    flags = (*TINY, *corpus.flags, *RESHARDABLE, f"--save={out / 'kept'}", "--save-interval=4")
    job = Job(out, (*flags, "--exit-interval=4", "--eval-interval=4", FIXED))
    run(job)
    return job


def grown(small: Job, corpus, out: Path, *flags: str, ranks: int = 1, steps: int = STEPS) -> Job:
    own = (f"--num-layers={LARGE}", f"--load={small.out / 'kept'}", f"--save={out / 'kept'}")
    rest = (f"--train-iters={steps}", "--save-interval=3", FIXED, *flags)
    return Job(out, (*TINY, *corpus.flags, *RESHARDABLE, *own, *rest), ranks)


def layers_of(found: dict[str, torch.Tensor], prefix: str = "") -> dict[str, torch.Tensor]:
    """Tensors with an axis of layers, a row a layer."""
    return {name: value for name, value in found.items() if name.startswith(f"{prefix}{LAYER}")}


@pytest.fixture(scope="module")
def at_once(small: Job, corpus, tmp_path_factory) -> dict[str, Job]:
    """Grown models as they are loaded: a run that ends where the small one did saves them."""
    root = tmp_path_factory.mktemp("at-once")
    ways = {
        "stack": ("--grow=stack",),
        "list": ("--grow=1,0,0-1",),
        "zero": ("--grow=zero", "--grow-optimizer=new"),
        "noise": ("--grow=stack", "--grow-noise=0.2"),
    }
    jobs = {
        name: grown(small, corpus, root / name, *ENDED, *flags, steps=CUT)
        for name, flags in ways.items()
    }
    run_all(list(jobs.values()))
    return jobs


@pytest.mark.parametrize("name", ["stack", "list"])
def test_every_layer_is_its_source_with_its_moments(small, at_once, name):
    operator = at_once[name].flags[-1].removeprefix("--grow=")
    sources = list(layer_map(operator, SMALL, LARGE).sources)
    before, after = (tensors(job.out / "kept", CUT) for job in (small, at_once[name]))
    model = layers_of(before)
    assert len(model) == 6
    for prefix in ("", "optimizer.state.exp_avg.", "optimizer.state.exp_avg_sq."):
        for key in model:
            assert torch.equal(after[prefix + key], before[prefix + key][sources])
    outside = [key for key in parameters(small.out / "kept", CUT) if key not in model]
    assert len(outside) == 3
    for key in outside:
        assert torch.equal(after[key], before[key])


def test_a_silent_layer_adds_nothing(small, at_once):
    after = tensors(at_once["zero"].out / "kept", CUT)
    outputs = [key for key in layers_of(after) if "linear_proj" in key or "linear_fc2" in key]
    assert len(outputs) == 2
    for key in outputs:
        assert not after[key][SMALL:].any()
        assert after[key][:SMALL].any()
    ends = [last_evaluated(job.out / "ledger.jsonl", CUT) for job in (small, at_once["zero"])]
    # Of one function: the same digits, all that a ledger has.
    assert ends[1] == ends[0]


def test_a_new_optimizer_begins_at_nothing_and_keeps_its_schedule(small, at_once):
    before, after = (tensors(job.out / "kept", CUT) for job in (small, at_once["zero"]))
    moments = [key for key in after if key.startswith("optimizer.state.exp_avg")]
    assert len(moments) == 2 * 9
    assert not any(after[key].any() for key in moments)
    assert all(before[key].any() for key in moments)


def test_noise_is_in_the_matrices_of_what_repeats(small, at_once):
    before, after = (tensors(job.out / "kept", CUT) for job in (small, at_once["noise"]))
    for key, value in layers_of(before).items():
        name = key.removeprefix(LAYER)
        assert torch.equal(after[key][:SMALL], value)
        for layer in range(SMALL, LARGE):
            wanted = value[layer - SMALL]
            if value.dim() == 3:
                deviation = standard_deviation(name, 32, LARGE)
                wanted = 0.8 * wanted + 0.2 * deviation * noise(1234, layer, name, wanted.shape)
            torch.testing.assert_close(after[key][layer], wanted, rtol=1e-6, atol=1e-9)
            assert torch.equal(after[f"optimizer.state.param.{key}"], after[key])


@pytest.mark.parametrize(
    "layout",
    [
        "--tensor-model-parallel-size=2",
        "--pipeline-model-parallel-size=2",
        # Two data-parallel ranks, which read a half each.
        "--ckpt-fully-parallel-load",
    ],
)
def test_any_layout_grows_the_same_model(small, at_once, corpus, tmp_path, layout):
    flags = (*ENDED, layout, "--grow=stack", "--grow-noise=0.2")
    job = grown(small, corpus, tmp_path, *flags, ranks=2, steps=CUT)
    run(job)
    assert not differing(tmp_path / "kept", kept(at_once["noise"]))


@pytest.mark.parametrize("name", ["stack", "list", "zero", "noise"])
def test_the_offline_command_makes_the_same(small, at_once, tmp_path, name):
    flags = [flag for flag in at_once[name].flags if flag.startswith("--grow")]
    offline(kept(small), tmp_path / "grown", *flags)
    assert not differing(tmp_path / "grown", kept(at_once[name]))


def offline(small: Path, out: Path, *flags: str) -> None:
    parser = ArgumentParser()
    checkpoint_grow.add_arguments(parser)
    words = [str(small), str(out), f"--num-layers={LARGE}", *flags]
    assert not checkpoint_grow.main(parser.parse_args(words))


def differing(one: Path, other: Path) -> list[str]:
    """Names of what is not the same in two checkpoints of the step, bit for bit."""
    mine, theirs = (
        {name: value for name, value in tensors(place, CUT).items() if not name.startswith(_RUN)}
        for place in (one, other)
    )
    assert mine.keys() == theirs.keys()
    return [name for name, value in theirs.items() if not torch.equal(mine[name], value)]


_RUN = ("rng_state", "rerun_state")


def kept(job: Job) -> Path:
    return job.out / "kept"


@pytest.fixture(scope="module")
def unbroken(small, corpus, tmp_path_factory) -> Result:
    return run(grown(small, corpus, tmp_path_factory.mktemp("grown") / "run", "--grow=stack"))


def test_steps_samples_and_rate_go_on(small, unbroken):
    rest = unbroken.ledger.steps[CUT:]
    assert rest[0]["positions"] == (CUT + 1) * 4 * 16
    # Warmed up in the small model's steps; the last three of ten decay.
    rates = [line["learning_rate"] for line in rest]
    assert rates[:2] == [1e-2] * 2
    assert rates[-1] < rates[-2] < rates[-3] < 1e-2
    header = unbroken.ledger.header
    (method,) = header["methods"]
    assert [stage["name"] for stage in method["stages"]] == ["2 layers", "single tokens"]
    assert [stage["samples"] for stage in method["stages"]] == [CUT * 4, (STEPS - CUT) * 4]
    assert not header["parents"]


def test_one_ledger_tells_both_models_steps_and_costs(small, unbroken):
    lines, before = unbroken.ledger.steps, read_ledger(small.out / "ledger.jsonl").steps
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    told = ("loss", "flops", "gpu_hours", "positions")
    assert [[line[name] for name in told] for line in lines[:CUT]] == [
        [line[name] for name in told] for line in before
    ]
    costs = np.diff([line["flops"] for line in lines])
    assert set(costs[CUT - 1 :]) == {costs[-1]}
    assert costs[-1] > 1.1 * costs[0]
    assert lines[-1]["gpu_hours"] > before[-1]["gpu_hours"]


def test_the_same_command_goes_on_from_what_has_grown(small, unbroken, corpus, tmp_path):
    job = grown(small, corpus, tmp_path, "--grow=stack", "--exit-interval=6")
    run(job)
    assert (tmp_path / "kept/iter_0000006").is_dir()
    ended = run(replace(job, flags=job.flags[:-1]))
    assert [line["step"] for line in ended.ledger.steps] == list(range(1, STEPS + 1))
    assert ended.losses == unbroken.losses
    mine, theirs = (tensors(place, STEPS) for place in (tmp_path / "kept", kept_of(unbroken)))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    again = run(replace(job, flags=(*job.flags[:-1], "--grow-optimizer=new")), check=False)
    assert again.code == 2
    assert "has grown with optimizer keep, and growth is done" in again.output


def kept_of(result: Result) -> Path:
    return result.ledger_file.parent / "kept"


def test_another_tokenizer_of_the_same_size_is_refused(small, corpus, tmp_path):
    """Beside a text that it indexed, which is how it comes about."""
    model, prefix = tmp_path / "other.model", tmp_path / "other"
    documents = corpus.documents[:20]
    train_tokenizer(documents[:5], model, 384)
    index_documents(documents, model, prefix, Console(quiet=True))
    other = (f"--tokenizer-model={model}", f"--data-path={prefix}")
    refused = run(grown(small, corpus, tmp_path, "--grow=stack", *other), check=False)
    assert refused.code == 2
    assert "was trained with another tokenizer (tokenizer.model with" in refused.output
    assert not (tmp_path / "kept/latest_checkpointed_iteration.txt").exists()


# Two experts a rank once there are two ranks, whose gates and ups Megatron asks for together.
EXPERTS = (
    *("--num-experts=4", "--moe-router-topk=1", "--moe-ffn-hidden-size=32"),
    *("--moe-router-pre-softmax", "--moe-token-dispatcher-type=alltoall"),
    *("--moe-router-load-balancing-type=none", "--expert-model-parallel-size=1"),
)
MODELS = {
    "experts": EXPERTS,
    "experts in some layers": (*EXPERTS, "--moe-layer-freq=([0,1])"),
    "hybrid": ("--hybrid-layer-pattern=*-",),
}
DEEPER = {
    "experts": ("--grow=interleave", "--num-layers=4", "--expert-model-parallel-size=2"),
    "experts in some layers": (
        *("--grow=0,1,0,1", "--num-layers=4", "--expert-model-parallel-size=2"),
        "--moe-layer-freq=([0,1]*2)",
    ),
    "hybrid": ("--grow=stack", "--hybrid-layer-pattern=*-*-"),
}


@pytest.mark.parametrize("model", MODELS)
def test_layers_of_several_kinds_grow(corpus, tmp_path, model):
    plain = tuple(flag for flag in TINY if model != "hybrid" or "--num-layers" not in flag)
    common = (*plain, *corpus.flags, FIXED, *MODELS[model])
    before = Job(
        tmp_path / "small", (*common, f"--save={tmp_path / 'small/kept'}", "--save-interval=4")
    )
    run(replace(before, flags=(*before.flags, "--exit-interval=4")))
    ranks = 1 if model == "hybrid" else 2
    rest = (*ENDED, f"--load={tmp_path / 'small/kept'}", f"--save={tmp_path / 'large/kept'}")
    how = (DEEPER[model][0], "--grow-noise=0.2")
    flags = (*common, *DEEPER[model], *how, *rest, "--save-interval=3", f"--train-iters={CUT}")
    run(Job(tmp_path / "large", flags, ranks))
    offline(tmp_path / "small/kept", tmp_path / "offline", *how)
    assert not differing(tmp_path / "offline", tmp_path / "large/kept")
