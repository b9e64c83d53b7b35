"""A tokenizer's description is what Megatron makes of its files and flags."""

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_tokenizers as made
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from tst_megatron.corpora.tokenizers.awkward_text import awkward_strings
from tst_megatron.corpora.tokenizers.description import TokenizerDescription, describe
from tst_megatron.corpora.tokenizers.encoders import reference_encoder
from tst_megatron.errors import UserError

Described = Callable[[str], TokenizerDescription]
Megatrons = Callable[[TokenizerDescription], Any]


@pytest.mark.parametrize("name", made.EVERY)
def test_megatron_has_the_same_ids(name: str, described: Described, megatrons: Megatrons) -> None:
    description = described(name)
    theirs = megatrons(description)
    assert description.vocab_size == theirs.vocab_size
    assert (-1 if description.eod is None else description.eod) == theirs.eod
    assert description.reads == "text"
    documents = [text for _, text in awkward_strings(description.special_tokens)]
    encoded = reference_encoder(description).encode(documents)
    begin = 0
    for document, length in zip(documents, encoded.lengths.tolist(), strict=True):
        ids = encoded.ids[begin : begin + length]
        assert ids.tolist() == theirs.tokenize(document), repr(document[:80])
        begin += length


@pytest.mark.parametrize(
    ("spec", "eod"), [("null:50000", 49_999), ("null:50000:eod=7", 7), ("null:1", 0)]
)
def test_ids_that_are_there(spec: str, eod: int, megatrons: Megatrons) -> None:
    description = describe(spec)
    theirs = megatrons(description)
    assert (description.vocab_size, description.eod) == (theirs.vocab_size, theirs.eod)
    assert (description.eod, description.reads, dict(description.files)) == (eod, "ids", {})
    assert description.sha256 != describe("null:50001").sha256


def test_options_of_a_tiktoken_vocabulary(
    spec_of: Callable[[str], str], megatrons: Megatrons
) -> None:
    options = "?pattern=v1&num_special_tokens=20&vocab_size=500"
    description = describe(spec_of("tiktoken") + options)
    theirs = megatrons(description)
    assert description.vocab_size == theirs.vocab_size == 500
    text = "Let us meet again, UPPER and lower</s> 12345<SPECIAL_19><SPECIAL_20>\n\n  x"
    assert reference_encoder(description).encode([text]).ids.tolist() == theirs.tokenize(text)


def test_ranks_become_megatrons_json(described: Described) -> None:
    converted, written = described("tiktoken-ranks").files, described("tiktoken").files
    assert json.loads(converted["vocab.json"]) == json.loads(written["vocab.json"])


def test_a_copy_is_the_same_each_time(described: Described, tmp_path: Path) -> None:
    described("hf-gpt2").copy_to(tmp_path / "one")
    described("hf-gpt2").copy_to(tmp_path / "two")
    described("hf-gpt2").copy_to(tmp_path / "two")
    files = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}
    again = describe(str(tmp_path / "one"))
    assert (again.sha256, again.eod) == (described("hf-gpt2").sha256, described("hf-gpt2").eod)


def _folder(tmp_path: Path, spec: str, **configuration: Any) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(spec, folder / "tokenizer.json")
    (folder / "tokenizer_config.json").write_text(json.dumps(configuration))
    return folder


def test_a_folders_configuration_is_heeded(
    spec_of: Callable[[str], str], tmp_path: Path, megatrons: Megatrons
) -> None:
    """transformers' class for Llama changes what its tokenizer.json does; so must we."""
    folder = _folder(
        tmp_path,
        spec_of("hf-llama2"),
        tokenizer_class="LlamaTokenizer",
        bos_token="<s>",
        eos_token="</s>",
        add_eos_token=False,
        chat_template="{{ messages }}",
    )
    for path in (folder, folder / "tokenizer.json"):
        description = describe(str(path))
        theirs = megatrons(description)
        assert (description.vocab_size, description.eod) == (theirs.vocab_size, theirs.eod)
        documents = [text for _, text in awkward_strings(description.special_tokens)]
        encoded = reference_encoder(description).encode(documents)
        assert encoded.ids.tolist() == [i for text in documents for i in theirs.tokenize(text)]
    assert b"chat_template" in description.files["tokenizer_config.json"]


@pytest.mark.parametrize("configured", [{"eos_token": "<|begin|>"}, {"pad_token": "<|begin|>"}])
def test_the_user_names_another_end(
    configured: dict[str, str],
    spec_of: Callable[[str], str],
    tmp_path: Path,
    megatrons: Megatrons,
) -> None:
    folder = _folder(
        tmp_path, spec_of("hf-gpt2"), tokenizer_class="PreTrainedTokenizerFast", **configured
    )
    description = describe(str(folder), eod_token="hello_world")
    theirs = megatrons(description)
    assert description.eod == theirs.eod == theirs.tokenize("hello_world")[0]
    by_itself = describe(str(folder))
    assert by_itself.eod == megatrons(by_itself).eod


def test_an_end_that_was_an_ordinary_token(
    spec_of: Callable[[str], str], megatrons: Megatrons
) -> None:
    """Named as the end, transformers takes it out of text; so must we."""
    description = describe(spec_of("hf-gpt2"), eod_token="ing")
    theirs = megatrons(description)
    assert description.eod == theirs.eod
    text = "string, singing ing\ning"
    assert reference_encoder(description).encode([text]).ids.tolist() == theirs.tokenize(text)


@pytest.mark.parametrize(
    ("spec", "eod_token", "says"),
    [
        ("nowhere.model", None, "nowhere.model is missing"),
        ("{folder}", None, "folder without a tokenizer.json"),
        ("{folder}?pattern=v1", None, "takes no options"),
        ("{text}", None, "neither a SentencePiece model nor"),
        ("{broken}", None, "broken.json cannot be loaded"),
        ("{list}", None, "not a tiktoken vocabulary of Megatron's"),
        ("{other ranks}", None, "does not begin with the 256 bytes"),
        ("{no end}", None, "name one with --eod-token"),
        ("{hf-gpt2}", "<nothing>", "--eod-token <nothing> is not a token"),
        ("{hf-gpt2}?pattern=v1", None, "takes no options"),
        ("{sp-as-ours}", "</s>", "is for Hugging Face tokenizers"),
        ("{tiktoken}?pattern=v3", None, "pattern v3"),
        ("{tiktoken}?colour=red", None, "an option colour"),
        ("{tiktoken}?num_special_tokens=3", None, "3 special tokens"),
        ("{tiktoken}?num_special_tokens=x", None, "num_special_tokens=x"),
        ("{tiktoken}?vocab_size=1000", None, "vocab_size 1000"),
        ("{tiktoken}?vocab_size=99999", None, "vocab_size 99999"),
        ("null:", None, "not of the form"),
        ("null:100:eod=x", None, "not of the form"),
        ("null:100:101", None, "not of the form"),
        ("null:100:eod=100", None, "has no id 100"),
        ("null:0", None, "has no id -1"),
    ],
)
def test_what_is_refused(
    spec: str, eod_token: str | None, says: str, spec_of: Callable[[str], str], tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "text.model").write_text("no model")
    (tmp_path / "broken.json").write_text('{"model": 3}')
    (tmp_path / "list.json").write_text('[{"rank": 0}]')
    (tmp_path / "other").write_bytes(base64.b64encode(b"!") + b" 0\n")
    tokenizer = json.loads(Path(spec_of("hf-own-split")).read_text())
    tokenizer["added_tokens"] = []
    del tokenizer["model"]["vocab"][made.END]
    (tmp_path / "no-end.json").write_text(json.dumps(tokenizer))
    paths = {
        "folder": empty,
        "text": tmp_path / "text.model",
        "broken": tmp_path / "broken.json",
        "list": tmp_path / "list.json",
        "other ranks": tmp_path / "other",
        "no end": tmp_path / "no-end.json",
    }
    name = spec[1 : spec.index("}")] if "{" in spec else ""
    if name:
        path = str(paths[name]) if name in paths else spec_of(name)
        spec = path + spec[spec.index("}") + 1 :]
    with pytest.raises(UserError, match=says) as raised:
        describe(spec, eod_token)
    assert "\n" not in str(raised.value)


def test_ids_with_gaps_have_no_embedding(tmp_path: Path) -> None:
    """Megatron counts tokens, and the ids beyond would get into a corpus."""
    tokenizer = Tokenizer(WordLevel({"<eos>": 7, "a": 0, "b": 500}, unk_token="a"))
    tokenizer.save(str(tmp_path / "gaps.json"))
    with pytest.raises(UserError, match=r"3 tokens and among them id 500, .* without gaps"):
        describe(str(tmp_path / "gaps.json"), "<eos>")
