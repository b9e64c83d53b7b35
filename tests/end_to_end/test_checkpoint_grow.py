"""A checkpoint of a small model, grown on disk, is a deeper model's to stock Megatron."""

import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from saved import tensors
from trainer import TINY, Job, Result, run_all

from tst_megatron import cli
from tst_megatron.checkpoints.derived import write
from tst_megatron.checkpoints.difference import difference
from tst_megatron.checkpoints.keyed_noise import noise
from tst_megatron.checkpoints.saved import Saved
from tst_megatron.checkpoints.steps import TRACKER
from tst_megatron.checkpoints.wholeness import fault_of
from tst_megatron.errors import UserError
from tst_megatron.methods.growth.layers import GrowthFlags, layer_map
from tst_megatron.methods.growth.noise import is_matrix, is_output, standard_deviation
from tst_megatron.methods.growth.plan import plan_of

SMALL, LARGE, CUT = 2, 4, 2
STEP = f"iter_{CUT:07d}"
STOCK = ("tests/stock_pretrain.py",)
SHARDED = ("--use-distributed-optimizer",)
RESHARDABLE = (*SHARDED, "--dist-ckpt-optim-fully-reshardable")
EXPERTS = (
    *("--num-experts=4", "--moe-router-topk=2", "--moe-ffn-hidden-size=32"),
    *("--moe-token-dispatcher-type=alltoall", "--moe-router-dtype=fp32"),
)
COMMON = tuple(flag for flag in TINY if not flag.startswith("--num-layers"))
# Flags of all sizes, of the small model, and of the grown one.
MODELS = {
    "dense": ((*RESHARDABLE, "--bf16"), (), ()),
    "buckets": (SHARDED, (), ()),
    "experts": ((*EXPERTS, *RESHARDABLE, "--mtp-num-layers=1"), (), ()),
    "some-experts": (EXPERTS, ("--moe-layer-freq=[0,1]",), ("--moe-layer-freq=[0,1,0,1]",)),
    "hybrid": (
        EXPERTS,
        ("--hybrid-layer-pattern=*E",),
        ("--hybrid-layer-pattern=*E*E",),
    ),
}


def flags_of(model: str, size: int) -> tuple[str, ...]:
    common, *own = MODELS[model]
    layers = () if model == "hybrid" else (f"--num-layers={size}",)
    return (*COMMON, *common, *layers, *own[size == LARGE])


@pytest.fixture(scope="module")
def small(corpus, tmp_path_factory) -> dict[str, Path]:
    """Folders of small models' checkpoints."""
    root = tmp_path_factory.mktemp("small")
    end = ("--save-interval=2", "--exit-interval=2", "--eval-iters=0")
    jobs = {
        model: Job(
            root / model,
            (*flags_of(model, SMALL), *corpus.flags, *end, f"--save={root / model / 'kept'}"),
        )
        for model in MODELS
    }
    run_all(list(jobs.values()))
    return {model: job.out / "kept" for model, job in jobs.items()}


def grow(folder: Path, out: Path, operator: str, **how) -> Path:
    saved = Saved(folder / STEP)
    write(plan_of(saved, GrowthFlags(operator, LARGE, **how)), out)
    assert fault_of(out / STEP) is None
    return out


def parts(found: dict[str, torch.Tensor], size: int) -> dict[tuple[str, int, str], torch.Tensor]:
    """A tensor a layer, by what is in front of the layer's number, the layer and what follows."""
    split = {}
    for key, value in found.items():
        match = re.fullmatch(r"(.*decoder\.layers\.)(?:(\d+)\.)?(.+)", key)
        if match is None:
            continue
        before, number, name = match.groups()
        if number is not None:
            split[before, int(number), name] = value
        else:
            assert len(value) == size
            split |= {(before, layer, name): value[layer] for layer in range(size)}
    return split


@pytest.mark.parametrize("model", ["dense", "experts", "some-experts", "hybrid"])
def test_each_layer_is_its_source_with_its_moments(small, tmp_path: Path, model: str) -> None:
    grown = grow(small[model], tmp_path / "grown", "stack")
    before, after = tensors(small[model], CUT), tensors(grown, CUT)
    sources = layer_map("stack", SMALL, LARGE).sources
    ours, theirs = parts(after, LARGE), parts(before, SMALL)
    assert len(ours) == len(theirs) * LARGE // SMALL
    assert {"exp_avg", "exp_avg_sq"} <= {key[0].split(".")[2] for key in ours if key[0][0] == "o"}
    for (prefix, layer, name), value in ours.items():
        assert torch.equal(value, theirs[prefix, sources[layer], name]), (prefix, layer, name)
    outside = [key for key in before if "decoder.layers." not in key]
    assert any("mtp." in key for key in outside) == (model == "experts")
    assert all(torch.equal(after[key], before[key]) for key in outside)
    # Nothing of it was copied on the disk.
    for file in (small[model] / STEP).glob("__*.distcp"):
        assert file.samefile(grown / STEP / file.name)
    written = sum(file.stat().st_size for file in (grown / STEP).glob("__new_*"))
    assert written == Saved(grown / STEP).place("common_state/shard_0_1").length


def test_arguments_are_the_grown_models_and_counts_go_on(small, tmp_path: Path) -> None:
    for model in ("dense", "some-experts", "hybrid"):
        before = Saved(small[model] / STEP).common
        grown = Saved(grow(small[model], tmp_path / model, "interleave") / STEP)
        after, args = grown.common, grown.args
        assert (args.num_layers, args.encoder_num_layers) == (LARGE, LARGE)
        for name in ("iteration", "opt_param_scheduler", "num_floating_point_operations_so_far"):
            assert after[name] == before[name]
        assert args.consumed_train_samples == before["args"].consumed_train_samples == 8
        facts = args.methods["growth"]["facts"]
        assert (facts["operator"], facts["layers"]) == ("interleave", [SMALL, LARGE])
        assert (facts["step"], facts["seed"], facts["optimizer"]) == (CUT, 1234, "keep")
        if model == "some-experts":
            assert args.moe_layer_freq == [0, 0, 1, 1]
        if model == "hybrid":
            assert args.hybrid_layer_pattern == "**EE"


def test_silent_layers_are_zero_where_they_give_back(small, tmp_path: Path) -> None:
    grown = grow(small["dense"], tmp_path / "grown", "zero")
    ours, theirs = (
        parts(tensors(folder, CUT), size)
        for folder, size in ((grown, LARGE), (small["dense"], SMALL))
    )
    zeros = {key for key, value in ours.items() if not value.any()}
    expected = {key for key in ours if key[1] >= SMALL and is_output(key[2])}
    # The model's, its masters and two moments, of two layers' two projections.
    assert len(expected) == 4 * 2 * 2
    assert expected <= zeros
    for key in set(ours) - expected:
        assert torch.equal(ours[key], theirs[key[0], key[1] % SMALL, key[2]])


@pytest.mark.parametrize("model", ["dense", "experts", "hybrid"])
def test_noise_is_added_to_repeated_matrices(small, tmp_path: Path, model: str) -> None:
    share = 0.2
    grown = grow(small[model], tmp_path / "grown", "stack", noise=share, seed=7)
    ours, theirs = (
        parts(tensors(folder, CUT), size)
        for folder, size in ((grown, LARGE), (small[model], SMALL))
    )
    changed = set()
    for key, value in ours.items():
        prefix, layer, name = key
        source = theirs[prefix, layer % SMALL, name]
        if layer < SMALL or "exp_avg" in prefix:
            assert torch.equal(value, source), key
            continue
        has_experts = ".experts.experts." in f".{name}"
        matrices = list(zip(value, source, strict=True)) if has_experts else [(value, source)]
        for expert, (mine, own) in enumerate(matrices):
            if not is_matrix(name, tuple(own.shape)):
                assert torch.equal(mine, own), key
                continue
            called = f"{name}.expert{expert}" if has_experts else name
            deviation = standard_deviation(name, 32, LARGE)
            added = noise(7, layer, called, tuple(own.shape))
            expected = (1 - share) * own.float() + share * deviation * added
            assert torch.equal(mine, expected.to(own.dtype)), key
            changed.add((prefix, called))
    if model == "dense":
        # Of four matrices the model's and the masters, whose fp32 the model's bf16 is not.
        assert len(changed) == 2 * 4


def test_a_new_optimizer_has_no_moments_and_counts_from_0(small, tmp_path: Path) -> None:
    for model in ("dense", "hybrid"):
        before = tensors(small[model], CUT)
        grown = grow(small[model], tmp_path / model, "stack", keeps_optimizer=False)
        after, common = tensors(grown, CUT), Saved(grown / STEP).common
        moments = [key for key in after if "exp_avg" in key]
        assert len(moments) > 10
        assert not any(after[key].any() for key in moments)
        assert "embedding.word_embeddings.weight" in {key.split("exp_avg.")[-1] for key in moments}
        masters = "optimizer.state.param.embedding.word_embeddings.weight"
        if model == "dense":
            assert torch.equal(after[masters], before[masters])
            assert {
                group["step"] for group in common["optimizer"]["optimizer"]["param_groups"]
            } == {0}
        else:
            assert common["optimizer"]["state"]["common_step"] == 0
        assert common["iteration"] == CUT


@pytest.fixture(scope="module")
def loaded(small, corpus, tmp_path_factory) -> dict[str, Result]:
    """Runs of stock Megatron from grown checkpoints, and from small ones."""
    root = tmp_path_factory.mktemp("loaded")
    jobs = {}
    for model in ("dense", "experts", "hybrid"):
        grown = grow(small[model], root / f"{model}-grown", "zero")
        for name, size, load in (("small", SMALL, small[model]), ("zero", LARGE, grown)):
            out = root / f"{model}-{name}"
            flags = (*flags_of(model, size), *corpus.flags, f"--load={load}", "--skip-train")
            jobs[f"{model}-{name}"] = Job(out, flags, program=STOCK)
    mixed = grow(small["some-experts"], root / "stacked", "stack", keeps_optimizer=False)
    flags = (*flags_of("some-experts", LARGE), *corpus.flags, f"--load={mixed}")
    jobs["went-on"] = Job(root / "went-on", (*flags, "--exit-interval=4"), program=STOCK)
    results = run_all(list(jobs.values()))
    return dict(zip(jobs, results, strict=True))


@pytest.mark.parametrize("model", ["dense", "experts", "hybrid"])
def test_with_silent_layers_the_loss_is_the_small_models(loaded, model: str) -> None:
    losses = {
        name: re.findall(r"lm loss value: (\S+)", loaded[f"{model}-{name}"].output)
        for name in ("small", "zero")
    }
    assert losses["small"]
    assert losses["zero"] == losses["small"]


def test_schedule_and_samples_go_on(loaded) -> None:
    logged = re.findall(
        r"iteration +(\d+)/.*?consumed samples: +(\d+).*?learning rate: (\S+)",
        loaded["went-on"].output,
    )
    # Two steps of warm-up were the small model's.
    assert logged == [("3", "12", "1.000000E-02"), ("4", "16", "1.000000E-02")]


def test_other_layouts_load_it_and_what_they_save_is_the_same(small, corpus, tmp_path) -> None:
    """A run that is over once it has loaded saves all that it loaded."""
    grown = grow(small["dense"], tmp_path / "grown", "1,0-1,1", noise=0.1)
    over = (
        *(f"--train-iters={CUT}", "--lr-warmup-iters=0", "--lr-wsd-decay-iters=1"),
        *("--override-opt_param-scheduler", "--eval-iters=0", "--save-interval=3"),
    )
    layouts = {"tp2": "--tensor-model-parallel-size=2", "pp2": "--pipeline-model-parallel-size=2"}
    jobs = {
        name: Job(
            tmp_path / name,
            (
                *(*flags_of("dense", LARGE), *corpus.flags, *over, layout),
                *(f"--load={grown}", f"--save={tmp_path / name / 'kept'}"),
            ),
            num_ranks=2,
        )
        for name, layout in layouts.items()
    }
    run_all(list(jobs.values()))
    for job in jobs.values():
        found = difference(Saved(grown / STEP), Saved(job.out / "kept" / STEP))
        assert found.compared > 30
        for differing in (found.values, found.shapes, found.dtypes, *found.only):
            assert not differing


def run_command(monkeypatch, capsys, *words: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["tst-megatron", "checkpoint", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    return ended.value.code, said.out + said.err


def test_the_commands(small, tmp_path: Path, monkeypatch, capsys) -> None:
    out = tmp_path / "grown"
    asked = ("grow", small["hybrid"], out, "--grow", "stack", "--num-layers", LARGE)
    code, said = run_command(monkeypatch, capsys, *asked)
    assert code == 0
    assert f"step {CUT}, {SMALL} layers grown to {LARGE}, " in said
    assert "bytes linked" in said
    assert said.strip().endswith("load it with --hybrid-layer-pattern '*E*E'")
    assert (out / TRACKER).read_text() == str(CUT)
    code, said = run_command(monkeypatch, capsys, "inspect", out)
    assert code == 0
    for words in ("HybridModel, 4 layers", "pattern *E*E", "growth: operator stack", "any layout"):
        assert words in said
    code, said = run_command(monkeypatch, capsys, "inspect", small["buckets"], "--json")
    facts = json.loads(said)
    assert facts["optimizer"]["kind"] == "dp_reshardable"
    assert not facts["optimizer"]["can_grow"]
    sizes = {key: value.numel() for key, value in tensors(small["buckets"], CUT).items()}
    model = [key for key in sizes if not key.startswith("optimizer.")]
    assert facts["parameters"]["total"] == sum(sizes[key] for key in model)
    code, said = run_command(monkeypatch, capsys, "diff", small["hybrid"], out, "--model-only")
    assert code == 1
    assert "hybrid_layer_pattern: *E -> *E*E" in said
    assert "only in B:\n  decoder.layers.2." in said
    (out / STEP / "__0_0.distcp").unlink()
    code, said = run_command(monkeypatch, capsys, "inspect", out)
    assert code == 1
    assert f"not whole: {STEP}/__0_0.distcp is missing" in said


def test_grown_again(small, tmp_path: Path) -> None:
    once = grow(small["dense"], tmp_path / "once", "zero")
    saved = Saved(once / STEP)
    write(plan_of(saved, GrowthFlags("zero", 2 * LARGE)), tmp_path / "twice")
    twice = Saved(tmp_path / "twice" / STEP)
    assert twice.args.methods["growth"]["facts"]["before"]["layers"] == [SMALL, LARGE]
    fc2 = twice.part("decoder.layers.mlp.linear_fc2.weight", (0, 0, 0), (8, 32, 64))
    assert [bool(layer.any()) for layer in fc2] == [True, True, *[False] * 6]


@pytest.mark.parametrize(
    ("model", "asked", "says"),
    [
        ("dense", ("--grow=stack", "--num-layers=5"), "5 layers are no multiple of"),
        ("dense", ("--grow=0-2", "--num-layers=3"), "names layer 2, and the checkpoint's"),
        ("dense", ("--grow=stack", "--num-layers=4", "--grow-noise=1"), "--grow-noise 1 is no"),
        ("dense", ("--grow=stack", "--num-layers=4", "--step=9"), "--step 9 is not in"),
        ("dense", ("--num-layers=4",), "nothing says how to grow: give --grow, or --grow-width"),
        ("dense", ("--grow=stack",), "--grow stack makes more layers: say how many"),
        ("dense", ("--grow=stack", "--hidden-size=64", "--num-layers=4"), "is of a wider model"),
        ("dense", ("--grow-width=direct", "--ffn-hidden-size=96"), "96 is no multiple of"),
        ("dense", ("--grow-width=zero",), "and 4 heads as the wide model has: raise"),
        ("experts", ("--grow-width=direct", "--hidden-size=64"), "not know how to widen experts"),
        ("buckets", ("--grow=stack", "--num-layers=4"), "--dist-ckpt-optim-fully-reshardable"),
        (
            "buckets",
            ("--grow=stack", "--num-layers=4", "--grow-optimizer=new"),
            "is dp_reshardable: cut into buckets",
        ),
    ],
)
def test_what_cannot_grow_is_refused(
    small, tmp_path: Path, monkeypatch, capsys, model: str, asked: tuple[str, ...], says: str
) -> None:
    out = tmp_path / "grown"
    code, said = run_command(monkeypatch, capsys, "grow", small[model], out, *asked)
    assert code == 2
    assert says in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_left_alone(small, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "mine").write_text("kept")
    asked = ("grow", small["dense"], tmp_path, "--grow=stack", "--num-layers=4")
    code, said = run_command(monkeypatch, capsys, *asked)
    assert code == 2
    assert "is there and not empty" in said
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


def test_a_pattern_in_stages_is_refused(small) -> None:
    saved = Saved(small["hybrid"] / STEP)
    saved.args.hybrid_layer_pattern = "*|E"
    with pytest.raises(UserError, match=r"\*\|E .* is cut into pipeline stages by '\|'"):
        plan_of(saved, GrowthFlags("stack", LARGE))


def test_where_there_are_no_links_files_are_copied(small, tmp_path: Path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, os.strerror(18))

    monkeypatch.setattr(os, "link", refuse)
    plan = plan_of(Saved(small["dense"] / STEP), GrowthFlags("stack", LARGE))
    written = write(plan, tmp_path / "grown")
    assert not written.linked
    assert written.copied == (small["dense"] / STEP / "__0_0.distcp").stat().st_size
    assert fault_of(tmp_path / "grown" / STEP) is None


def test_what_is_cut_off_leaves_nothing(small, tmp_path: Path, monkeypatch) -> None:
    plan = plan_of(Saved(small["dense"] / STEP), GrowthFlags("zero", LARGE))
    for name, fault in (("fsync", OSError(28, os.strerror(28))), ("link", KeyboardInterrupt())):

        def fail(*_: object, fault=fault) -> None:
            raise fault

        with monkeypatch.context() as patched:
            patched.setattr(os, name, fail)
            with pytest.raises((UserError, KeyboardInterrupt)):
                write(replace(plan), tmp_path / "grown")
        assert not list(tmp_path.iterdir())
