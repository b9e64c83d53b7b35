"""A checkpoint of another tokenizer is not gone on from, where that is certain."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from corpora import write_corpus, write_its_manifest
from counted_corpora import parse
from saved import save_arguments

from tst_megatron.corpora.manifest import TokenizerRecord
from tst_megatron.corpora.tokenizers.training import train_tokenizer
from tst_megatron.errors import UserError
from tst_megatron.methods.registry import run_of
from tst_megatron.trainer.memory import check_resume
from tst_megatron.trainer.same_tokenizer import (
    check_flags_tokenizer,
    remember_tokenizer,
    remembered_tokenizer,
)

SP, HF = "SentencePieceTokenizer", "HuggingFaceTokenizer"
ONE, OTHER = "1" * 64, "2" * 64


def told(kind: str | None, sha256: str | None = None, tokens: int | None = None) -> dict[str, Any]:
    return {
        "tokenizer_type": kind,
        "tokenizer_model": "runs/it.model",
        "tokenizer_sha256": sha256,
        "tokenizer_tokens": tokens,
    }


def resume(folder: Path, saved: dict[str, Any], now: dict[str, Any], *flags: str) -> None:
    args = parse(save_arguments(folder, num_attention_heads=4, **saved), *flags)
    vars(args).update({"num_attention_heads": 4, **now})
    check_resume(args, run_of(args))


@pytest.mark.parametrize(
    ("saved", "now", "says"),
    [
        (told(SP), told(HF), f"(of the type {SP}, and this run's is of {HF})"),
        (
            told(SP, ONE, 384),
            told(SP, OTHER, 384),
            "(it.model with SHA-256 111111111111..., and this run's, it.model, has 222222222222...",
        ),
        (told(HF, ONE, 384), told(HF, None, 400), "(of 384 tokens, and this run's has 400)"),
        (told("NullTokenizer", None, 9), told("NullTokenizer", None, 10), "of 9 tokens"),
    ],
)
def test_what_is_certainly_another(tmp_path: Path, saved, now, says: str) -> None:
    with pytest.raises(UserError) as refused:
        resume(tmp_path, saved, now)
    said = str(refused.value)
    assert said.startswith(f"the checkpoint in {tmp_path} was trained with another tokenizer (")
    assert says in said
    # Its weights are begun anew from on purpose.
    resume(tmp_path, saved, now, "--finetune")


@pytest.mark.parametrize(
    ("saved", "now"),
    [
        # Before it was remembered, or by Megatron alone.
        ({}, told(SP, ONE, 384)),
        ({"tokenizer_type": SP, "tokenizer_model": "a.model"}, told(SP, ONE, 384)),
        # The same file, wherever it lies and whatever reads it.
        (told(SP, ONE), told(SP, ONE) | {"tokenizer_model": "moved.model"}),
        (told("Llama2Tokenizer", ONE, 384), told(SP, ONE, 400)),
        (told("Llama2Tokenizer"), told(SP, ONE)),
        (told("GPT2BPETokenizer", None, 384), told(HF, ONE, 384)),
        # Ids that are there already may be any tokenizer's.
        (told(SP, ONE, 384), told("NullTokenizer", OTHER, 512)),
        (told("MultimodalTokenizer"), told(HF)),
    ],
)
def test_what_cannot_be_known_is_gone_on_from(tmp_path: Path, saved, now) -> None:
    resume(tmp_path, saved, now)


def test_what_a_converter_says_of_a_release_is_not_held_against_it(tmp_path: Path) -> None:
    load = save_arguments(tmp_path, num_attention_heads=4, **told(SP))
    (tmp_path / "iter_0000010").rename(tmp_path / "release")
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("release")
    args = parse(load)
    vars(args).update({"num_attention_heads": 4, **told(HF)})
    assert check_resume(args, run_of(args)) is None


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two vocabularies of one size."""
    folder = tmp_path_factory.mktemp("models")
    for name, words in (("one", "lines of words"), ("other", "a wholly different text")):
        text = "\n".join(f"{number} {words} {number * 7}" for number in range(500))
        train_tokenizer([text], folder / f"{name}.model", 320)
    return folder / "one.model", folder / "other.model"


def of(model: Path, *flags: str) -> Namespace:
    return parse(f"--tokenizer-type={SP}", f"--tokenizer-model={model}", *flags)


def test_what_is_remembered_is_what_the_file_holds(models, tmp_path: Path) -> None:
    moved = tmp_path / "moved.model"
    moved.write_bytes(models[0].read_bytes())
    found = []
    for model in (models[0], moved, models[1]):
        args = of(model)
        remember_tokenizer(args, 320, end=2)
        found.append(remembered_tokenizer(args))
    one, same, other = found
    assert (one.name, same.name, one.tokens) == ("one.model", "moved.model", 320)
    assert one.sha256 == same.sha256 != other.sha256


def test_flags_alone_tell_as_much_as_files_do(models, tmp_path: Path) -> None:
    one, other = models
    check_flags_tokenizer(of(one), of(one), "it is trained")
    with pytest.raises(UserError, match=r"^it is trained with another tokenizer \(one.model with"):
        check_flags_tokenizer(of(one), of(other), "it is trained")
    # Files that are on another machine, or a type that waits for a corpus.
    check_flags_tokenizer(of(one), of(tmp_path / "gone.model"), "it is trained")
    check_flags_tokenizer(of(one), parse(f"--tokenizer-type={HF}"), "it is trained")
    with pytest.raises(UserError, match=f"of the type {SP}, and this run's is of {HF}"):
        check_flags_tokenizer(
            of(one), parse(f"--tokenizer-type={HF}", "--tokenizer-model=gone"), "it is trained"
        )


def test_a_corpus_tells_its_own(models, tmp_path: Path) -> None:
    def corpus(name: str, sha256: str, *flags: str) -> str:
        prefix = write_corpus(tmp_path / name, [[1, 2, 3]])
        record = TokenizerRecord("huggingface", None, sha256, 320, 3, [*flags], "", 0, None)
        write_its_manifest(prefix, tokenizer=record)
        return f"--data-path={prefix}"

    words = ("--tokenizer-type", HF, "--tokenizer-model", "it")
    one, same, other = (
        corpus(*named, *words) for named in (("one", ONE), ("same", ONE), ("other", OTHER))
    )
    waits = f"--tokenizer-type={SP}"
    check_flags_tokenizer(parse(waits, one), parse(waits, same), "it is trained")
    for now, says in ((parse(waits, other), ONE[:12]), (of(models[0]), f"of the type {HF}")):
        with pytest.raises(UserError, match=says):
            check_flags_tokenizer(parse(waits, one), now, "it is trained")
    # Two tokenizers in one run are that run's to be refused for.
    check_flags_tokenizer(parse(waits, one), parse(waits, one, f"--valid-data-path={other}"), "")
