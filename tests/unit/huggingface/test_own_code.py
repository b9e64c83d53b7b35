"""No code runs that a folder brings along, but what an export of ours writes there."""

import json
import shutil
from pathlib import Path

import pytest
import tiny_models
import torch

from tst_megatron.errors import UserError
from tst_megatron.huggingface.folder import load_model, load_tokenizer
from tst_megatron.huggingface.own_code import runs_own_code
from tst_megatron.methods.depths import modeling_routed as routed

CODE = Path(routed.__file__)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As an export writes it."""
    found = tmp_path / "model"
    made = tiny_models.tokenizer()
    config = routed.RoutedLlamaConfig(
        vocab_size=len(made),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        routed_layers=[1],
        routed_sampling="auxiliary",
        routed_thresholds=[None],
    )
    routed.RoutedLlamaForCausalLM(config).save_pretrained(found)
    made.save_pretrained(found)
    shutil.copy(CODE, found)
    names(found, "modeling_routed")
    return found


def names(folder: Path, module: str, **fields: str) -> None:
    """Let the configuration name classes of a module."""
    file = folder / "config.json"
    classes = {"AutoConfig": "Config", "AutoModelForCausalLM": "ForCausalLM"}
    told = {name: f"{module}.RoutedLlama{own}" for name, own in classes.items()}
    file.write_text(json.dumps({**json.loads(file.read_text()), "auto_map": told, **fields}))


@pytest.fixture
def other_code(tmp_path: Path) -> tuple[str, Path]:
    """Code that tells when it runs, and where."""
    mark = tmp_path / "it ran"
    return f"{CODE.read_text()}\nopen({str(mark)!r}, 'w').close()\n", mark


def test_ours_runs(folder: Path) -> None:
    model = load_model(folder)
    assert type(model).__name__ == "RoutedLlamaForCausalLM"
    assert type(model).__module__.startswith("transformers_modules.")
    own = routed.RoutedLlamaForCausalLM.from_pretrained(folder)
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(model(ids).logits, own(ids).logits)


@pytest.mark.parametrize(
    "spoil", ["another text", "another file", "another repository", "what runs unasked", "no file"]
)
def test_of_others_none_runs(folder: Path, other_code: tuple[str, Path], spoil: str) -> None:
    text, mark = other_code
    if spoil == "another text":
        (folder / CODE.name).write_text(text)
    elif spoil == "another file":
        (folder / "modeling_other.py").write_text(text)
        names(folder, "modeling_other")
    elif spoil == "another repository":
        names(folder, "somebody/else--modeling_routed")
    elif spoil == "what runs unasked":
        (folder / "custom_generate").mkdir()
        (folder / "custom_generate" / "generate.py").write_text(f"{text}\ngenerate = print\n")
    else:
        (folder / CODE.name).unlink()
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
