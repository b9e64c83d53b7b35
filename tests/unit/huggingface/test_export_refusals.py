"""What users bring to export and import and cannot have: one sentence, and nothing is written."""

import json
import resource
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.distributed.checkpoint.metadata import TensorProperties
from transformers import LlamaConfig, LlamaForCausalLM

from tst_megatron import cli
from tst_megatron.checkpoints.derived import Made, write
from tst_megatron.checkpoints.saved import Saved
from tst_megatron.checkpoints.steps import step_folder
from tst_megatron.huggingface import export
from tst_megatron.huggingface.folder import model_folder
from tst_megatron.huggingface.importing import Folder, Target, plan_of

VOCABULARY = 300


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A folder as transformers writes it, in two files, with a tokenizer."""
    folder = tmp_path_factory.mktemp("published") / "model"
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=3,
        max_position_embeddings=32,
    )
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="100KB")
    vocabulary = {"<eos>": 0, **{chr(33 + i): i + 1 for i in range(VOCABULARY - 1)}}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>"}
    settings |= {"chat_template": "{{ messages }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


@pytest.fixture
def copy(published, tmp_path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "copy"))


def run(*words: object) -> int:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["tst-megatron", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
    assert isinstance(stop.value.code, int)
    return stop.value.code


def refused(capsys, out: Path, *words: object) -> str:
    assert run(*words, "--output", out) == 2
    said = capsys.readouterr()
    assert not said.out
    assert "Traceback" not in said.err
    assert not out.exists()
    assert not list(out.parent.glob(f"{out.name}*partial*"))
    return said.err


def test_what_is_published_comes_in_and_goes_out_as_it_was(published, tmp_path, capsys) -> None:
    start, out = tmp_path / "start", tmp_path / "out"
    # Such as are published beside the weights, and what a stopped export leaves.
    others = [published / name for name in ("flax_model.msgpack", "tf_model.h5", "plan.json")]
    for path in others:
        path.write_bytes(b"")
    assert run("import", published, "--output", start, "--dtype=float32") == 0
    kept = {path.name for path in (start / "tokenizer").iterdir()}
    assert kept == {"config.json", "tokenizer.json", "tokenizer_config.json"}
    assert "84 rows of padding" in capsys.readouterr().out
    saved = Saved(step_folder(start))
    assert saved.folder.name == "release"
    assert saved.tensors["embedding.word_embeddings.weight"].size[0] == 384
    assert (start / "tokenizer" / "tokenizer_config.json").read_bytes() == (
        published / "tokenizer_config.json"
    ).read_bytes()
    assert run("export", start, "--output", out) == 0
    before = {}
    for file in published.glob("*.safetensors"):
        before |= load_file(file)
    after = load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(one, after[name]) for name, one in before.items())
    assert "84 rows of padding were left out" in (out / "README.md").read_text()
    assert "chat_template" in (out / "tokenizer_config.json").read_text()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ("no config", "has no config.json"),
        ("no JSON", "config.json is no JSON"),
        ("a list", "holds no object"),
        ("no weights", "has neither model.safetensors nor"),
        ("a file less", "is not whole"),
        ("a cut file", "cannot be read"),
        ("another shape", "and config.json says"),
        ("a weight less", "has no model.norm.weight"),
        ("a weight more", "has model.layers.0.self_attn.q_norm.weight"),
        ("integers", "is of I64"),
        ("no tokenizer", "has no tokenizer.json"),
        ("a larger tokenizer", "tokens and the model has rows for 300"),
        ("an index that is none", "is no index of weights"),
    ],
)
def test_a_folder_that_cannot_be_imported(spoil, says, copy, tmp_path, capsys) -> None:
    files = sorted(copy.glob("*.safetensors"))
    config = json.loads((copy / "config.json").read_text())
    index = copy / "model.safetensors.index.json"
    listed = json.loads(index.read_text())

    def changed(**changes: torch.Tensor | None) -> None:
        values = {**load_file(files[0]), **changes}
        save_file({name: one for name, one in values.items() if one is not None}, files[0])

    match spoil:
        case "no config":
            (copy / "config.json").unlink()
        case "no JSON":
            (copy / "config.json").write_text("{")
        case "a list":
            (copy / "config.json").write_text("[]")
        case "no weights":
            for file in (*files, index):
                file.unlink()
        case "a file less":
            files[0].unlink()
        case "a cut file":
            files[0].write_bytes(files[0].read_bytes()[:5000])
        case "another shape":
            (copy / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
        case "a weight less":
            for file in files:
                values = load_file(file)
                values.pop("model.norm.weight", None)
                save_file(values, file)
        case "a weight more":
            changed(**{"model.layers.0.self_attn.q_norm.weight": torch.ones(8)})
        case "integers":
            changed(**{"model.embed_tokens.weight": torch.ones(300, 48, dtype=torch.int64)})
        case "no tokenizer":
            (copy / "tokenizer.json").unlink()
        case "a larger tokenizer":
            tokenizer = Tokenizer.from_file(str(copy / "tokenizer.json"))
            tokenizer.add_tokens(["another"])
            tokenizer.save(str(copy / "tokenizer.json"))
        case "an index that is none":
            index.write_text(json.dumps({"weights": listed}))
    assert says in refused(capsys, tmp_path / "out", "import", copy)


def test_flags_of_import_that_cannot_be(published, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert "--tensor-model-parallel-size 0" in refused(
        capsys, out, "import", published, "--tensor-model-parallel-size=0"
    )
    assert "there is no folder" in refused(capsys, out, "import", tmp_path / "none")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("mine")
    assert run("import", published, "--output", tmp_path / "there") == 2
    assert (tmp_path / "there" / "file").read_text() == "mine"


def test_a_checkpoint_that_cannot_be_exported(published, tmp_path, capsys) -> None:
    start, out = tmp_path / "start", tmp_path / "out"
    assert run("import", published, "--output", start) == 0
    capsys.readouterr()

    def says(*words: object) -> str:
        return refused(capsys, out, "export", *words)

    assert "there is no folder" in says(tmp_path / "none")
    assert "it is a model of Hugging Face's, and no run" in says(published)
    assert f"name {start}, whose steps are there" in says(tmp_path)
    assert "--step 7" in says(start, "--step=7")
    assert "--shard-size 5 is no size" in says(start, "--shard-size=5")
    assert "--shard-size nanGB" in says(start, "--shard-size=nanGB")
    assert "--no-tokenizer beside --tokenizer" in says(start, "--no-tokenizer", "--tokenizer=x")
    assert "--verify-text without --verify" in says(start, "--verify-text=x")
    assert "is missing" in says(start, f"--tokenizer={tmp_path / 'none'}")
    other = tmp_path / "other"
    shutil.copytree(start / "tokenizer", other)
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace('"!": 1,', '"ÿ~": 1,'))
    assert "not the one that the model's corpus was indexed with" in says(
        start, f"--tokenizer={other}"
    )
    (next((start / "release").glob("*.distcp"))).write_bytes(b"")
    assert "is not whole" in says(start)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ("a tensor more", "self_attention.linear_proj.bias, which its arguments do not say"),
        ("a layer more", "has 2 of decoder.layers."),
        ("no floating point", "is of torch.float8_e4m3fn"),
        ("tied", "arguments say that its embedding is the output's matrix, too"),
        ("untied", "arguments say that its output has a matrix of its own"),
    ],
)
def test_a_checkpoint_that_is_not_what_its_arguments_say(
    spoil, says, published, tmp_path, capsys
) -> None:
    """Each would be exported as a model that loads and is another."""
    folder = Folder(published)
    plan = plan_of(folder, Target(VOCABULARY, torch.float32, {}))
    args, tensors = plan.common["args"], {one.key: one for one in plan.tensors}
    bias = "decoder.layers.self_attention.linear_proj.bias"
    match spoil:
        case "a tensor more":
            tensors[bias] = replace(tensors["decoder.final_layernorm.weight"], key=bias)
        case "a layer more":
            args.num_layers = 1
        case "no floating point":
            key, eighth = "decoder.layers.mlp.linear_fc2.weight", torch.float8_e4m3fn
            pieces = tuple(
                replace(one, content=Made(partial(torch.ones, one.sizes, dtype=eighth)))
                for one in tensors[key].pieces
            )
            properties = TensorProperties(dtype=eighth)
            tensors[key] = replace(tensors[key], pieces=pieces, properties=properties)
        case "tied":
            args.untie_embeddings_and_output_weights = False
        case "untied":
            del tensors["output_layer.weight"]
    write(replace(plan, tensors=tuple(tensors.values())), tmp_path / "start")
    assert says in refused(capsys, tmp_path / "out", "export", tmp_path / "start", "--no-tokenizer")


@pytest.mark.parametrize("at", ["sync_folder", "rename"])
def test_an_export_that_was_stopped_at_its_very_end_goes_on(
    at, published, tmp_path, capsys, monkeypatch
) -> None:
    start, out = tmp_path / "start", tmp_path / "out"
    assert run("import", published, "--output", start) == 0

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(export if at == "sync_folder" else Path, at, stopped)
        assert run("export", start, "--output", out) == 130
    assert not out.exists()
    assert run("export", start, "--output", out) == 0, capsys.readouterr().err
    assert not any(path.name in ("plan.json", ".lock") for path in out.iterdir())
    assert not (tmp_path / "out.partial").exists()


def test_a_full_disk_is_a_sentence_and_what_is_whole_stays(published, tmp_path, capsys) -> None:
    start, out = tmp_path / "start", tmp_path / "out"
    assert run("import", published, "--output", start) == 0
    words = ["export", start, "--output", out, "--shard-size=90KB"]
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The first file fits, and the second does not.
    resource.setrlimit(resource.RLIMIT_FSIZE, (88_500, limit[1]))
    try:
        assert run(*words) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "out cannot be written: File too large" in capsys.readouterr().err
    assert not out.exists()
    assert not list((tmp_path / "out.partial").glob("*.partial"))
    whole = {one.name: one.stat().st_ino for one in tmp_path.glob("out.partial/*.safetensors")}
    assert whole
    assert run(*words) == 0
    assert {name: (out / name).stat().st_ino for name in whole} == whole


def test_a_name_that_another_export_took_meanwhile_stays_its_own(
    published, tmp_path, capsys, monkeypatch
) -> None:
    start, out = tmp_path / "start", tmp_path / "out"
    assert run("import", published, "--output", start) == 0
    name_it = export.name_it

    def late(partial: Path, own: Path) -> None:
        own.mkdir()
        (own / "config.json").write_text("theirs")
        name_it(partial, own)

    monkeypatch.setattr(export, "name_it", late)
    assert run("export", start, "--output", out) == 2
    assert "is there and not empty" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["config.json"]
    monkeypatch.undo()
    shutil.rmtree(out)
    assert run("export", start, "--output", out) == 0


def test_a_folder_is_itself_and_a_checkpoint_is_exported_for_a_while(
    published, tmp_path, capfd
) -> None:
    from tst_megatron.errors import UserError

    with model_folder(published) as folder:
        assert folder == published
    with pytest.raises(UserError, match="--step 3 beside"), model_folder(published, 3):
        pass
    start = tmp_path / "start"
    assert run("import", published, "--output", start) == 0
    with model_folder(start) as folder:
        assert (folder / "config.json").is_file()
        assert (folder / "tokenizer.json").is_file()
    assert not folder.exists()
    with pytest.raises(UserError, match=r"^--step 9 is not in"), model_folder(start, 9):
        pass
    assert run("import", published, "--output", tmp_path / "bare", "--no-tokenizer") == 0
    told = f"so export {tmp_path / 'bare'} first$"
    with pytest.raises(UserError, match=told), model_folder(tmp_path / "bare"):
        pass
