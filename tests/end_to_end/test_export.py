"""Models leave Megatron's trainer and come in again: weights, logits, and runs that go on.

Every model is trained by the real trainer in a layout of its own, some on bags, grown or upcycled;
exported through the command; and computed by both libraries in processes of their own.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from saved import parameters
from trainer import REPOSITORY, TINY, Job, run_all

from tst_megatron import cli
from tst_megatron.checkpoints.saved import Saved
from tst_megatron.checkpoints.steps import step_folder

POSITIONS = 16
LAYERS = "decoder.layers."
BAGS = ("--tst-bag-size=2", "--tst-step-ratio=0.5")
GROUPS = ("--group-query-attention", "--num-query-groups=2", "--kv-channels=16")
RESHARDABLE = ("--use-distributed-optimizer", "--dist-ckpt-optim-fully-reshardable")
EXPERTS = (
    *("--num-experts=4", "--moe-router-topk=2", "--moe-ffn-hidden-size=48", "--qk-layernorm"),
    *("--moe-router-load-balancing-type=aux_loss", "--moe-aux-loss-coeff=1e-2"),
    "--moe-token-dispatcher-type=alltoall",
)
# Every block routed: by a threshold, which training goes by from step 3 on, or by a predictor.
ROUTED = ("--mod-capacity=0.5", "--mod-every=1", "--init-method-std=0.1")
THRESHOLD = ("--mod-sampling=threshold", "--mod-threshold-decay=0.5")
NGRAMS = ("--ngram-rows=50", "--ngram-orders=2-4")
TIED = "--untie-embeddings-and-output-weights"
# Flags beside those of a tiny model, ranks, and flags that it goes without.
TRAINED = {
    "llama": (
        (*GROUPS, "--tensor-model-parallel-size=2", "--pipeline-model-parallel-size=2", *BAGS),
        4,
        (TIED,),
    ),
    "smollm3": ((*GROUPS, "--no-rope-freq=2", "--rotary-base=500000", "--bf16"), 1, ()),
    "qwen3": (("--hybrid-layer-pattern=*-*-", "--qk-layernorm", *BAGS), 1, ("--num-layers=2",)),
    "qwen3_moe": (
        (*EXPERTS, "--expert-model-parallel-size=2", "--moe-layer-freq=[0,1]", *RESHARDABLE),
        2,
        (),
    ),
    "routed_ngram_llama": (
        (
            *GROUPS,
            *ROUTED,
            *THRESHOLD,
            *NGRAMS,
            "--tensor-model-parallel-size=2",
            "--sequence-parallel",
        ),
        2,
        (),
    ),
    "routed_mixtral": (
        (*(one for one in EXPERTS if one != "--qk-layernorm"), *ROUTED, "--bf16"),
        1,
        (),
    ),
}
CUT = 4
"""Steps: within the bags of 10 steps."""


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory) -> dict[str, Path]:
    """Folders of checkpoints, by the family that their models are of."""
    root = tmp_path_factory.mktemp("runs")
    jobs = {
        name: Job(
            root / name,
            (
                *(flag for flag in TINY if flag not in without),
                *corpus.flags,
                *own,
                "--make-vocab-size-divisible-by=100",
                *(f"--save={root / name}", f"--exit-interval={CUT}", f"--save-interval={CUT}"),
            ),
            ranks,
        )
        for name, (own, ranks, without) in TRAINED.items()
    }
    run_all(list(jobs.values()))
    found = {name: root / name for name in TRAINED}
    command("checkpoint", "grow", found["llama"], root / "grown", "--grow=stack", "--num-layers=4")
    dense = root / "mixtral"
    command(
        *("checkpoint", "upcycle", found["llama"], dense, "--num-experts=4", "--upcycle-noise=0.1")
    )
    return found | {"grown": root / "grown", "mixtral": dense}


@pytest.fixture(scope="module")
def exported(runs, tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("exported")
    for name, folder in runs.items():
        command("export", folder, "--output", root / name, "--shard-size=40KB")
    return {name: root / name for name in runs}


@pytest.fixture(scope="module")
def ids() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 384, (2, POSITIONS))


@pytest.fixture(scope="module")
def megatrons(runs, ids, tmp_path_factory) -> dict[str, np.ndarray]:
    """Megatron's logits, in float32."""
    return logits_in_a_process(
        tmp_path_factory.mktemp("megatron"),
        {name: step_folder(folder) for name, folder in runs.items()},
        ids,
        """
import numpy, tempfile, torch
from tst_megatron.backends import prepare_backend
prepare_backend()
from tst_megatron.huggingface.megatron_logits import logits_of
store = tempfile.mkdtemp()
torch.distributed.init_process_group("gloo", init_method=f"file://{store}/s", rank=0, world_size=1)
found = lambda folder, ids: logits_of(folder, torch.float32, ids)
""",
    )


@pytest.fixture(scope="module")
def transformers(exported, ids, tmp_path_factory) -> dict[str, np.ndarray]:
    """Logits of transformers' models, in float32, and ``NAME bfloat16`` in that."""
    return logits_in_a_process(
        tmp_path_factory.mktemp("transformers"),
        {**exported, "smollm3 bfloat16": exported["smollm3"]},
        ids,
        """
import torch
from tst_megatron.huggingface.folder import load_model
def found(folder, ids):
    dtype = torch.bfloat16 if name.endswith("bfloat16") else torch.float32
    with torch.no_grad():
        return load_model(folder, dtype)(torch.from_numpy(ids)).logits.float().numpy()
""",
    )


def logits_in_a_process(
    out: Path, folders: dict[str, Path], ids: np.ndarray, program: str
) -> dict[str, np.ndarray]:
    np.save(out / "ids.npy", ids)
    jobs = {name: str(folder) for name, folder in folders.items()}
    rest = f"""
import json, numpy, pathlib
for name, folder in json.loads({json.dumps(json.dumps(jobs))}).items():
    logits = found(pathlib.Path(folder), numpy.load({str(out / "ids.npy")!r}))
    numpy.save({str(out)!r} + "/" + name + ".npy", logits)
"""
    done = subprocess.run(
        [sys.executable, "-c", program + rest], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: np.load(out / f"{name}.npy") for name in folders}


def command(*words: object, code: int = 0) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["tst-megatron", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
    assert stop.value.code == code


def config(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


@pytest.mark.parametrize("name", [*TRAINED, "grown", "mixtral"])
def test_both_libraries_compute_the_same(exported, megatrons, transformers, name):
    theirs, ours = megatrons[name], transformers[name]
    assert ours.shape == (2, POSITIONS, 384)
    assert theirs.shape == (2, POSITIONS, 400)
    assert np.abs(theirs).max() > 0.5
    assert np.abs(theirs[..., :384] - ours).max() < 1e-4


def test_a_model_is_of_the_family_that_it_has_the_shape_of(exported):
    found = {name: config(folder)["model_type"] for name, folder in exported.items()}
    assert found == {name: name for name in TRAINED} | {"grown": "llama", "mixtral": "mixtral"}
    assert config(exported["smollm3"])["no_rope_layers"] == [1, 0]
    assert config(exported["llama"])["tie_word_embeddings"] is True
    assert config(exported["qwen3_moe"])["mlp_only_layers"] == [0]
    assert config(exported["grown"])["num_hidden_layers"] == 4


def test_routed_blocks_leave_some_tokens_out(runs, exported):
    """By their rules; else nothing of them would have been compared."""
    for name in ("routed_ngram_llama", "routed_mixtral"):
        lines = map(json.loads, (runs[name] / "ledger.jsonl").read_text().splitlines())
        extras = [line["extras"] for line in lines if line["kind"] == "step"][-1]
        assert all(0 < extras[f"mod_passing_block_{block}"] < 1 for block in (1, 2)), extras
        assert config(exported[name])["routed_layers"] == [0, 1]
    # Kept as it was in training, whatever the weights are rounded to.
    (average, steps) = (
        Saved(step_folder(runs["routed_ngram_llama"])).part(
            f"{LAYERS}1.depth_router.{name}", (), ()
        )
        for name in ("threshold", "steps")
    )
    told = config(exported["routed_ngram_llama"])["routed_thresholds"]
    assert told[1] == pytest.approx(float(average) / (1 - 0.5 ** int(steps)), rel=2**-22)


def test_tables_of_ngrams_are_as_they_were_trained(runs, exported):
    name = "routed_ngram_llama"
    told = config(exported[name])
    assert (told["ngram_rows"], told["ngram_orders"], told["ngram_end"]) == (50, [2, 3, 4], 2)
    ours = weights(exported[name])["model.ngram_embeddings.weight"]
    theirs = parameters(runs[name], CUT)["embedding.ngram_embeddings.weight"]
    assert torch.equal(ours, theirs)
    # Else they would not have been compared.
    assert ours.abs().max() > 1e-3


def test_a_model_with_code_of_its_own_writes_and_is_asked(exported, corpus, tmp_path, capsys):
    folder = exported["routed_ngram_llama"]
    command("generate", folder, "--prompt=def main", "--max-new-tokens=4")
    assert capsys.readouterr().out.startswith("def main")
    text = tmp_path / "some.jsonl"
    text.write_text(json.dumps({"text": corpus.documents[0][:300]}) + "\n")
    flags = ("--held-out", text, "--no-ledger", "--max-length=16")
    command("evaluate", folder, *flags, "--out", tmp_path / "report")
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "some.jsonl" in line)
    assert 0 < float(line.split()[4]) < 2 * np.log(384)


def test_a_model_with_code_of_its_own_does_not_come_in_again(exported, tmp_path, capsys):
    command("import", exported["routed_ngram_llama"], "--output", tmp_path / "start", code=2)
    assert "has model_type 'routed_ngram_llama', and what can be read is" in capsys.readouterr().err


def test_in_bfloat16_the_error_is_that_of_its_rounding(megatrons, transformers):
    theirs, ours = megatrons["smollm3"][..., :384], transformers["smollm3 bfloat16"]
    # To first order each tensor on the way is rounded once, by half a unit of 8 bits, and norms
    # before every block keep what was rounded from growing: a dozen a layer (norm, queries and
    # keys before and after RoPE, values, scores, weights, their sum, the output and the residual;
    # norm, gate, up, their product, the output and the residual), the embedding, the last norm and
    # the logits.
    rounded = 17 * 2 + 3
    assert np.linalg.norm(theirs - ours) < rounded * 2.0**-9 * np.linalg.norm(theirs)
    assert np.abs(theirs - ours).max() > 1e-4


def test_files_are_as_large_as_asked_and_an_index_has_all(exported):
    for folder in exported.values():
        files = sorted(folder.glob("*.safetensors"))
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        listed = index["weight_map"]
        found = {}
        for file in files:
            with safe_open(file, framework="pt") as opened:
                names = list(opened.keys())
                assert opened.metadata() == {"format": "pt"}
            assert all(listed[name] == file.name for name in names)
            own = load_file(file)
            size = sum(one.numel() * one.itemsize for one in own.values())
            assert size <= 40_000 or len(own) == 1
            found |= own
        assert len(files) > 1
        assert set(found) == set(listed)
        total = sum(one.numel() * one.itemsize for one in found.values())
        assert index["metadata"]["total_size"] == total


def test_bags_are_warned_of_in_the_model_card(exported, capfd, runs, tmp_path):
    assert (
        "not trained to predict the next token yet" in (exported["llama"] / "README.md").read_text()
    )
    assert "not trained" not in (exported["smollm3"] / "README.md").read_text()
    command("export", runs["qwen3"], "--output", tmp_path / "again", "--quiet")
    told = capfd.readouterr()
    assert not told.out
    assert "warning: step 4 is in the stage of bags of 2" in told.err


def test_what_a_program_asks_of_the_run_goes_with_it(exported, runs):
    facts = json.loads((exported["smollm3"] / "tst-megatron.json").read_text())
    assert facts["step"] == CUT
    assert facts["data_tokens"] == CUT * 4 * POSITIONS
    assert facts["flops"] > 0
    assert (exported["smollm3"] / facts["ledger"]).resolve() == runs["smollm3"] / "ledger.jsonl"
    assert config(exported["smollm3"])["eos_token_id"] == facts["end_of_document"] == 2


def test_verification_says_how_far_they_are_apart(runs, tmp_path, capsys):
    command("export", runs["routed_mixtral"], "--output", tmp_path / "out", "--verify")
    told = capsys.readouterr().out
    assert "of the corpus corpus: at most" in told
    assert "the same at 100.00% of them" in told
    assert (
        "Compared with Megatron's own forward pass: logits in float32 on 64 positions"
        in (tmp_path / "out" / "README.md").read_text()
    )


def test_verification_fails_for_another_model(runs, tmp_path, capsys, monkeypatch):
    from tst_megatron.huggingface import export

    write_weights = export.write_weights

    def spoiled(model, folder, *rest) -> None:
        write_weights(model, folder, *rest)
        (file,) = folder.glob("*.safetensors")
        values = load_file(file)
        gate = values["model.layers.0.mlp.gate_proj.weight"]
        up = values["model.layers.0.mlp.up_proj.weight"]
        values["model.layers.0.mlp.gate_proj.weight"] = up.clone()
        values["model.layers.0.mlp.up_proj.weight"] = gate.clone()
        save_file(values, file, {"format": "pt"})

    monkeypatch.setattr(export, "write_weights", spoiled)
    command("export", runs["smollm3"], "--output", tmp_path / "out", "--verify", code=1)
    assert "is not the checkpoint's model and keeps that name" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.partial").is_dir()


def test_an_export_that_was_stopped_goes_on(runs, exported, tmp_path, monkeypatch, capsys):
    from tst_megatron.huggingface import export

    out, written = tmp_path / "out", []
    write = export.write

    def stopped(path, listed, tensors) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, listed, tensors)

    words = ["export", runs["smollm3"], "--output", out, "--shard-size=40KB"]
    with monkeypatch.context() as patched:
        patched.setattr(export, "write", stopped)
        command(*words, code=130)
    partial = tmp_path / "out.partial"
    assert not out.exists()
    before = {path.name: path.stat().st_ino for path in partial.glob("*.safetensors")}
    assert len(before) == 2
    command(*words[:-1], "--shard-size=50KB", code=2)
    assert "is what another export has left, of other settings" in capsys.readouterr().err
    command(*words)
    assert not partial.exists()
    assert {name: (out / name).stat().st_ino for name in before} == before
    for file in exported["smollm3"].glob("*.safetensors"):
        assert file.read_bytes() == (out / file.name).read_bytes()


@pytest.mark.parametrize("name", [*(one for one in TRAINED if "routed" not in one), "mixtral"])
def test_in_again_and_out_again_is_the_same_bit_for_bit(exported, tmp_path, name):
    command("import", exported[name], "--output", tmp_path / "start")
    command("export", tmp_path / "start", "--output", tmp_path / "out", "--shard-size=40KB")
    before, after = weights(exported[name]), weights(tmp_path / "out")
    assert before.keys() == after.keys()
    for key, one in before.items():
        assert one.dtype == after[key].dtype
        assert torch.equal(one, after[key])
    left_out = ("dtype", "torch_dtype")
    own, other = config(exported[name]), config(tmp_path / "out")
    assert {key: one for key, one in own.items() if key not in left_out} == {
        key: one for key, one in other.items() if key not in left_out
    }
    assert (tmp_path / "start" / "tokenizer" / "tokenizer.model").is_file()


def test_runs_start_from_what_was_imported(exported, runs, corpus, tmp_path):
    model = ("--num-layers", "--hidden", "--ffn", "--num-att", "--max-pos", "--pos", "--norm")
    model += ("--swiglu", "--disable", "--untie", "--tokenizer-type", "--make", "--attention")
    training = tuple(flag for flag in TINY if not flag.startswith(model))
    jobs = {}
    for name, layout, ranks in (
        ("qwen3_moe", "--expert-model-parallel-size=2", 2),
        ("smollm3", "--tensor-model-parallel-size=2", 2),
    ):
        start = tmp_path / f"start-{name}"
        command("import", exported[name], "--output", start)
        flags = (f"--recipe={start / 'recipe.yaml'}", *training, *corpus.flags[1:])
        own = (
            f"--load={start}",
            f"--save={tmp_path / name}",
            "--exit-interval=1",
            "--save-interval=1",
            "--lr=1e-9",
        )
        jobs[name] = Job(tmp_path / name, (*flags, *own, "--lr-warmup-iters=0", layout), ranks)
    results = dict(zip(jobs, run_all(list(jobs.values())), strict=True))
    for name, result in results.items():
        # What it was trained to: far below the loss of nothing learned.
        assert result.losses[0] < np.log(384) - 0.3
        before, after = parameters(runs[name], CUT), parameters(tmp_path / name, 1)
        key = f"{LAYERS}self_attention.linear_qkv.weight"
        key = key if key in before else f"{LAYERS}1.self_attention.linear_qkv.weight"
        assert torch.allclose(before[key].float(), after[key].float(), atol=1e-5)


def test_a_model_grows_from_what_was_imported(exported, tmp_path):
    command("import", exported["llama"], "--output", tmp_path / "start")
    command(
        "checkpoint",
        "grow",
        tmp_path / "start",
        tmp_path / "grown",
        "--num-layers=4",
        "--grow=stack",
    )
    command("checkpoint", "upcycle", tmp_path / "start", tmp_path / "experts", "--num-experts=4")
    small, large = Saved(step_folder(tmp_path / "start")), Saved(step_folder(tmp_path / "grown"))
    key = f"{LAYERS}mlp.linear_fc2.weight"
    sizes = [one.tensors[key].size for one in (small, large)]
    assert [int(size[0]) for size in sizes] == [2, 4]
