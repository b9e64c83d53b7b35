"""No code runs that a folder brings along, but what an export of ours writes there."""

import json
from pathlib import Path

import pytest
import tiny_models
import torch
from own_classes import own_classes

from tst_megatron.errors import UserError
from tst_megatron.huggingface.folder import load_model, load_tokenizer
from tst_megatron.huggingface.own_code import MODULE, runs_own_code
from tst_megatron.methods.depths.method import CODE as ROUTED
from tst_megatron.methods.ngrams.exported import CODE as NGRAMS

FILES = (f"{MODULE}.py", "modeling_routed.py", "modeling_ngrams.py", "ngram_hashing.py")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As an export writes it."""
    found = tmp_path / "model"
    found.mkdir()
    made = tiny_models.tokenizer()
    model, config_of = own_classes(found, "llama", (ROUTED, NGRAMS))
    config = config_of(
        vocab_size=len(made),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        routed_layers=[1],
        routed_sampling="auxiliary",
        routed_thresholds=[None],
        ngram_rows=5,
        ngram_orders=[2, 3],
        ngram_end=0,
    )
    model(config).save_pretrained(found)
    made.save_pretrained(found)
    names(found, MODULE)
    return found


def names(folder: Path, module: str, **fields: str) -> None:
    """Let the configuration name classes of a module."""
    file = folder / "config.json"
    classes = {"AutoConfig": "Config", "AutoModelForCausalLM": "ForCausalLM"}
    told = {name: f"{module}.RoutedNgramLlama{own}" for name, own in classes.items()}
    file.write_text(json.dumps({**json.loads(file.read_text()), "auto_map": told, **fields}))


@pytest.fixture
def other_code(tmp_path: Path) -> tuple[str, Path]:
    """Code that tells when it runs, and where."""
    mark = tmp_path / "it ran"
    return f"open({str(mark)!r}, 'w').close()\n", mark


def test_ours_runs(folder: Path) -> None:
    model = load_model(folder)
    assert type(model).__name__ == "RoutedNgramLlamaForCausalLM"
    assert type(model).__module__.startswith("transformers_modules.")
    assert model.model.layers[1].depth_router.weight.shape == (16,)
    assert model.model.ngram_embeddings.weight.shape == (10, 16)
    assert model(torch.tensor([[1, 2, 3]])).logits.isfinite().all()


@pytest.mark.parametrize(
    "spoil",
    [
        *(f"another {name}" for name in FILES),
        *("another file", "another repository", "another kind", "what runs unasked", "no file"),
    ],
)
def test_of_others_none_runs(folder: Path, other_code: tuple[str, Path], spoil: str) -> None:
    text, mark = other_code
    if (name := spoil.removeprefix("another ")) in FILES:
        file = folder / name
        file.write_text(f"{file.read_text()}{text}")
    elif spoil == "another kind":
        names(folder, MODULE, model_type="routed_llama")
    elif spoil == "another file":
        (folder / "modeling_other.py").write_text(text)
        names(folder, "modeling_other")
    elif spoil == "another repository":
        names(folder, f"somebody/else--{MODULE}")
    elif spoil == "what runs unasked":
        (folder / "custom_generate").mkdir()
        (folder / "custom_generate" / "generate.py").write_text(f"{text}generate = print\n")
    else:
        (folder / FILES[-1]).unlink()
    for load in (load_model, load_tokenizer):
        with pytest.raises(UserError, match="is not what this version of tst-megatron writes"):
            load(folder)
    assert not mark.exists()


def test_what_goes_without_it_does(folder: Path, other_code: tuple[str, Path]) -> None:
    text, mark = other_code
    (folder / "modeling_other.py").write_text(text)
    tokenizer = folder / "tokenizer_config.json"
    told = {"auto_map": {"AutoTokenizer": [None, "modeling_other.Tokenizer"]}}
    tokenizer.write_text(json.dumps({**json.loads(tokenizer.read_text()), **told}))
    assert load_tokenizer(folder)("def")["input_ids"] == tiny_models.tokenizer()("def")["input_ids"]
    names(folder, "modeling_other", model_type="llama")
    assert not runs_own_code(folder)
    assert type(load_model(folder)).__name__ == "LlamaForCausalLM"
    load_tokenizer(folder)
    assert not mark.exists()
