"""transformers gives a corpus's ids from an export's files, or it is said where it does not."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_tokenizers as made
import pytest
from transformers import AutoTokenizer

from tst_megatron.corpora.tokenizers import tiktoken_vocabulary
from tst_megatron.corpora.tokenizers.awkward_text import awkward_strings
from tst_megatron.corpora.tokenizers.description import TokenizerDescription, describe
from tst_megatron.errors import UserError
from tst_megatron.huggingface.tokenizer_files import SpecialIds, tokenizer_files

LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
TEXTS = [*made.TEXT[:300], "Ünïcödé 漢字\r\n\t</s> <s>x<unk> 🧑‍🚀", "", "  two  spaces ", "\n\nx"]
SYMBOLS = ["\n", "\t", "<|im_start|>"]


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TokenizerDescription]:
    """A tokenizer by its name in `made_tokenizers`, or a SentencePiece model by its settings."""
    folder = tmp_path_factory.mktemp("tokenizers")
    paths: dict[str, Path] = {}

    def described(name: str, options: str = "", **settings: Any) -> TokenizerDescription:
        if settings:
            return describe(str(made.sentencepiece_model(folder / f"{name}.model", **settings)))
        if name not in paths:
            paths[name] = made.tokenizer(folder, name)
        return describe(f"{paths[name]}{options}")

    return described


def own_ids(description: TokenizerDescription, text: str) -> list[int]:
    """By the library itself, as Megatron calls it."""
    library = description.library
    if description.kind == "sentencepiece":
        return list(library.encode(text))
    if description.kind == "tiktoken":
        return list(library.encode(text, allowed_special="all"))
    return list(library.encode(text).ids)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, "") for name in ("sp-as-ours", "sp-leading-space", "sp-stripped")),
        *((name, "") for name in ("sp-without-bytes", "sp-without-eos")),
        *((name, "") for name in ("hf-llama3", "hf-qwen2", "hf-roberta")),
        ("tiktoken", ""),
        ("tiktoken", "?pattern=v1&num_special_tokens=20&vocab_size=500"),
    ],
)
def test_transformers_gives_the_same_ids(
    name: str, options: str, described: Callable[..., TokenizerDescription], tmp_path: Path
) -> None:
    description = described(name, options)
    made_files = tokenizer_files(description, TEXTS, LLAMA)
    assert made_files.differences == ()
    assert made_files.checked > len(TEXTS) + 500
    made_files.check_equal()
    made_files.write_to(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        ids = loaded(text)["input_ids"]
        assert ids == own_ids(description, text)
        if description.kind == "sentencepiece" and description.library.decode(ids) == text:
            assert loaded.decode(ids) == text
    assert len(loaded) == description.vocab_size
    assert loaded.eos_token_id == made_files.special.eos == description.eod
    assert sorted(path.name for path in tmp_path.glob("tokenizer.*")) == [
        "tokenizer.json",
        *(["tokenizer.model"] if description.kind == "sentencepiece" else []),
    ]


def test_what_begins_and_ends_a_document(described: Callable[..., TokenizerDescription]) -> None:
    plain, framed, tiktoken, ids, endless = (
        tokenizer_files(description)
        for description in (
            described("sp-as-ours"),
            described("hf-roberta"),
            described("tiktoken"),
            describe("null:500:eod=3"),
            described("sp-without-eos"),
        )
    )
    # A piece <s> that no document ever began with would be noise to begin a text with.
    assert plain.special == SpecialIds(bos=2, eos=2, pad=None)
    assert plain.documents() == "A document has nothing before its text, and id 2 after it."
    assert framed.special == SpecialIds(bos=1, eos=0, pad=None)
    assert framed.documents() == "A document has id 1, and ids 0, 0 after it."
    assert tiktoken.special == SpecialIds(bos=2, eos=2, pad=4)
    assert endless.special == SpecialIds(None, None, None)
    assert (ids.special, ids.files) == (SpecialIds(3, 3, None), {})
    assert "writes ids" in ids.documents()


@pytest.mark.parametrize(
    ("name", "settings", "kinds"),
    [
        # Marks behind a letter are looked for in other places.
        ("normal", {"normalization_rule_name": "nmt_nfkc"}, {"text in NFD", "combining marks"}),
        # Sums that are equal but for rounding.
        ("likely", {"model_type": "unigram"}, {"a run of spaces"}),
        # A document that is one symbol and no more.
        ("symbols", {"add_dummy_prefix": True, "user_defined_symbols": SYMBOLS}, {"a run of tabs"}),
    ],
)
def test_differences_are_named(
    name: str,
    settings: dict[str, Any],
    kinds: set[str],
    described: Callable[..., TokenizerDescription],
    tmp_path: Path,
) -> None:
    description = described(name, **settings)
    made_files = tokenizer_files(description, TEXTS)
    found = {one.kind: one for one in made_files.differences}
    assert kinds <= found.keys()
    assert not any("document" in kind for kind in found)
    made_files.write_to(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for one in found.values():
        assert list(one.corpus) == own_ids(description, one.text)
        assert list(one.ours) == loaded(one.text)["input_ids"]
    with pytest.raises(UserError, match=r"differ on .* and in the corpus .*: allow it if"):
        made_files.check_equal()


@pytest.mark.parametrize(
    "settings",
    [
        {"model_type": model, "byte_fallback": has_bytes, "add_dummy_prefix": has_bytes}
        | {"normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True}
        | {"user_defined_symbols": SYMBOLS}
        for model in ("bpe", "unigram")
        for has_bytes in (True, False)
    ],
)
def test_text_of_a_corpus_is_encoded_as_there(
    settings: dict[str, Any], described: Callable[..., TokenizerDescription], tmp_path: Path
) -> None:
    description = described("all-at-once", **settings)
    texts = [*TEXTS, *(f"{one}\n\t  <|im_start|>{one} ａｂ ﬁ" for one in made.TEXT[300:400])]
    made_files = tokenizer_files(description, texts)
    assert not [one for one in made_files.differences if one.kind.startswith("document")]


def test_another_tokenizer_does_not_pass(described: Callable[..., TokenizerDescription]) -> None:
    ours, other = described("sp-as-ours"), described("sp-leading-space")
    made_files = tokenizer_files(dataclasses.replace(ours, library=other.library), ["a document"])
    assert "document 1 of the sample" in {one.kind for one in made_files.differences}


def test_a_folder_of_hugging_faces_stays_as_it_is(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    made.tokenizer_json(source / "tokenizer.json", "hf-llama3")
    (source / "chat_template.jinja").write_text("{{ messages[0].content }}<|begin|>")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": made.END}
    config |= {"pad_token": "<mask>", "model_max_length": 77}
    (source / "tokenizer_config.json").write_text(json.dumps(config))
    (source / "config.json").write_text('{"model_type": "gpt2"}')
    made_files = tokenizer_files(describe(str(source)), TEXTS, LLAMA)
    assert made_files.differences == ()
    made_files.write_to(out)
    # The model's configuration is another one's here.
    kept = {path.name for path in source.iterdir()} - {"config.json"}
    assert {path.name for path in out.iterdir()} == kept
    assert all((out / name).read_bytes() == (source / name).read_bytes() for name in kept)
    loaded = AutoTokenizer.from_pretrained(out)
    chat = loaded.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert chat == "hi<|begin|>"
    assert made_files.special == SpecialIds(bos=1, eos=0, pad=loaded.pad_token_id)


def test_a_folder_that_leaves_its_class_to_the_model(tmp_path: Path) -> None:
    """Beside a Llama transformers would take text apart as Llama 2 did."""
    made.tokenizer_json(tmp_path / "tokenizer.json", "hf-gpt2")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": made.END}))
    description = describe(str(tmp_path))
    made_files = tokenizer_files(description, TEXTS, LLAMA)
    assert made_files.differences == ()
    out = tmp_path / "out"
    out.mkdir()
    made_files.write_to(out)
    (out / "config.json").write_text(json.dumps(LLAMA))
    loaded = AutoTokenizer.from_pretrained(out)
    assert [loaded(text)["input_ids"] for text in TEXTS] == [
        own_ids(description, text) for text in TEXTS
    ]


def test_what_has_no_likeness_is_refused(
    described: Callable[..., TokenizerDescription], tmp_path: Path
) -> None:
    for name, settings, says in [
        ("word", {"model_type": "word"}, "of the model type word"),
        ("char", {"model_type": "char", "vocab_size": 370}, "of the model type char"),
        ("suffix", {"treat_whitespace_as_suffix": True}, "with treat_whitespace_as_suffix"),
    ]:
        description = described(name, byte_fallback=name != "word", **settings)
        with pytest.raises(UserError, match=f"{says}, and Hugging Face's libraries have none"):
            tokenizer_files(description)
    entries = json.loads(made.tiktoken_json(tmp_path / "vocab.json").read_text())
    entries[-1] |= {"token_bytes": "PHM+", "token_str": "<s>"}
    (tmp_path / "vocab.json").write_text(json.dumps(entries))
    description = describe(f"{tmp_path / 'vocab.json'}?num_special_tokens=10")
    assert tiktoken_vocabulary.EOD_TOKEN in description.special_tokens
    with pytest.raises(UserError, match="a rank that spells its special token <s>"):
        tokenizer_files(description)


def test_what_was_converted_is_read_again_as_it_is(
    described: Callable[..., TokenizerDescription], tmp_path: Path
) -> None:
    """As a corpus that is indexed with an exported folder needs it: control pieces are text."""
    description = described("sp-as-ours")
    tokenizer_files(description).write_to(tmp_path)
    (tmp_path / "tokenizer.model").unlink()
    again = describe(str(tmp_path))
    assert again.kind == "huggingface"
    assert again.eod == description.eod
    for text in (*TEXTS, *(text for _, text in awkward_strings(description.special_tokens))):
        assert again.library.encode(text).ids == description.library.encode(text)
    assert tokenizer_files(again).differences == ()
