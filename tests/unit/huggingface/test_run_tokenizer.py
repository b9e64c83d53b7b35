"""A checkpoint's tokenizer is found by hand, beside its corpus or by its path, or it is refused."""

import argparse
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import made_tokenizers as made
import pytest

from tst_megatron.checkpoints.saved import Saved
from tst_megatron.corpora.manifest import tokenizer_folder
from tst_megatron.corpora.tokenizers.description import describe
from tst_megatron.errors import UserError
from tst_megatron.huggingface.provenance import args_here
from tst_megatron.huggingface.run_tokenizer import find_tokenizer

OTHER = "it is not the one that the model's corpus was indexed with"


def of_run(**given: Any) -> argparse.Namespace:
    """Arguments of stock Megatron's, of which a checkpoint may have some only."""
    return argparse.Namespace(**{"tokenizer_type": "SentencePieceTokenizer", "split": None} | given)


def test_beside_the_corpus(corpus: Any, tmp_path: Path) -> None:
    held = describe(str(corpus.tokenizer))
    args = of_run(
        data_path=[str(corpus.prefix)],
        tokenizer_model="where/it/was/once.model",
        tokenizer_sha256=held.sha256,
    )
    found = find_tokenizer(args)
    assert found is not None
    assert found.sha256 == held.sha256
    assert Path(found.source).parent == tokenizer_folder(corpus.prefix)
    # Several corpora, one of which is not here.
    args.data_path = ["0.3", str(tmp_path / "gone"), "0.7", str(corpus.prefix)]
    assert find_tokenizer(args) == found
    # The corpora are listed in a file that has stayed behind.
    args.data_path, args.data_args_path = None, str(tmp_path / "no-such-list")
    assert find_tokenizer(args) is None


def test_by_the_path_in_the_arguments(
    corpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokenizers").mkdir()
    shutil.copy(corpus.tokenizer, tmp_path / "tokenizers/mine.model")
    args = of_run(tokenizer_model="tokenizers/mine.model", data_path=["data/corpus"])
    assert find_tokenizer(args) is None
    monkeypatch.chdir(tmp_path)
    found = find_tokenizer(args)
    assert found is not None
    assert (found.kind, found.vocab_size) == ("sentencepiece", 384)


def test_relative_paths_are_from_where_the_run_was_launched(
    corpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--save`` tells that folder, and where all of it was moved it is another."""
    shutil.copytree(corpus.prefix.parent, tmp_path / "moved/data")
    step = tmp_path / "moved/runs/mine/iter_0000003"
    step.mkdir(parents=True)
    name = f"data/{corpus.prefix.name}"
    given = {"data_path": ["1", name], "tokenizer_model": "data/gone.model", "ledger": "/there"}

    def here(save: str) -> argparse.Namespace:
        saved = SimpleNamespace(args=of_run(save=save, **given), folder=step)
        return args_here(cast(Saved, saved))

    for save in ("runs/mine", "./runs/mine/"):
        found = here(save)
        assert found.data_path == ["1", str(tmp_path / "moved" / name)]
        assert (found.tokenizer_model, found.ledger) == ("data/gone.model", "/there")
        assert find_tokenizer(found) is not None
    for save in ("other/mine", "../runs/mine", str(step.parent), "."):
        assert here(save).data_path == ["1", name]
    monkeypatch.chdir(tmp_path / "moved")
    assert here("runs/mine").data_path == ["1", name]


def test_each_of_megatrons_types(tmp_path: Path) -> None:
    tiktoken = made.tiktoken_json(tmp_path / "vocab.json")
    hugging_face = tmp_path / "hf"
    hugging_face.mkdir()
    made.tokenizer_json(hugging_face / "tokenizer.json", "hf-gpt2")
    options = {"tiktoken_pattern": "v1", "tiktoken_num_special_tokens": 20, "vocab_size": 300}
    for args, kind, size in [
        (of_run(tokenizer_type="NullTokenizer", vocab_size=500), "null", 500),
        (of_run(tokenizer_type="TikTokenizer", tokenizer_model=str(tiktoken)), "tiktoken", 1600),
        (
            of_run(tokenizer_type="TikTokenizer", tokenizer_model=str(tiktoken), **options),
            "tiktoken",
            300,
        ),
        (
            of_run(tokenizer_type="HuggingFaceTokenizer", tokenizer_model=str(hugging_face)),
            "huggingface",
            602,
        ),
    ]:
        found = find_tokenizer(args)
        assert found is not None
        assert (found.kind, found.vocab_size) == (kind, size)
    assert find_tokenizer(of_run(tokenizer_type="NullTokenizer")) is None
    null = find_tokenizer(
        of_run(tokenizer_type="NullTokenizer", vocab_size=9, null_tokenizer_eod_id=4)
    )
    assert null is not None
    assert null.eod == 4
    # What the user names has the run's options as well.
    args = of_run(tokenizer_type="TikTokenizer", **options)
    named = find_tokenizer(args, tiktoken)
    assert named is not None
    assert named.vocab_size == 300


def test_another_tokenizer_is_refused(corpus: Any, tmp_path: Path) -> None:
    other = made.sentencepiece_model(tmp_path / "other.model")
    held = describe(str(corpus.tokenizer))
    args = of_run(data_path=[str(corpus.prefix)], tokenizer_sha256=held.sha256)
    with pytest.raises(UserError, match=rf"other.model has SHA-256 \w+\.\.\., .*{OTHER}"):
        find_tokenizer(args, other)
    args = of_run(tokenizer_model=str(other), tokenizer_sha256=held.sha256)
    with pytest.raises(UserError, match=OTHER):
        find_tokenizer(args)
    # The corpus is where it was, and has been indexed anew since.
    args = of_run(data_path=[str(corpus.prefix)], tokenizer_sha256="0" * 64)
    with pytest.raises(UserError, match=OTHER):
        find_tokenizer(args)
    # By their number where the checkpoint knows no more.
    for known in ({"tokenizer_tokens": 384}, {"padded_vocab_size": 512}):
        with pytest.raises(UserError, match=r"has 600 tokens, and the checkpoint.*" + OTHER):
            find_tokenizer(of_run(**known), other)
        assert find_tokenizer(of_run(**known), corpus.tokenizer) == held
    with pytest.raises(UserError, match="there is no such file or folder"):
        find_tokenizer(of_run(), tmp_path / "none.model")
