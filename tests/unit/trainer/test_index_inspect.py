"""What `index inspect` says of a corpus: the text of its documents, samples, lengths."""

import argparse
import base64
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from corpora import EOD, random_documents, write_corpus, write_its_manifest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread
from sentencepiece import SentencePieceTrainer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tst_megatron.corpora.index_file import index_path, read_index
from tst_megatron.corpora.lengths import bins_of, histogram_lines, lengths_of
from tst_megatron.corpora.manifest import TokenizerRecord, write_manifest
from tst_megatron.corpora.token_text import TokenText
from tst_megatron.corpora.tokenizers.description import TokenizerDescription, describe
from tst_megatron.errors import UserError
from tst_megatron.trainer.commands import index_inspect
from tst_megatron.trainer.sample_view import NO_TOKEN, Sample, as_text

TEXTS = [f"The cat number {i} sat on the mat.\n\tIt was {i * i} years old!" for i in range(60)]


def command(*words: Path | str) -> int:
    parser = argparse.ArgumentParser()
    index_inspect.add_arguments(parser)
    return index_inspect.main(parser.parse_args(list(map(str, words))))


def sentencepiece(folder: Path) -> str:
    SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_prefix=str(folder / "sp"),
        model_type="bpe",
        vocab_size=330,
        byte_fallback=True,
        add_dummy_prefix=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return str(folder / "sp.model")


def huggingface(folder: Path) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return str(folder / "tokenizer.json")


def tiktoken(folder: Path) -> str:
    tokens = [bytes([byte]) for byte in range(256)] + [b"at", b" s", b" sat"]
    lines = [f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(tokens)]
    (folder / "ranks.tiktoken").write_text("\n".join(lines) + "\n")
    return str(folder / "ranks.tiktoken")


KINDS = (sentencepiece, huggingface, tiktoken)


def encode(description: TokenizerDescription, text: str) -> list[int]:
    ids = description.library.encode(text)
    return ids.ids if description.kind == "huggingface" else list(ids)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of text with its manifest and its tokenizer's folder, as `index build` leaves it."""
    folder = tmp_path_factory.mktemp("real")
    description = describe(sentencepiece(folder))
    prefix = write_corpus(
        folder / "corpus", [[*encode(description, text), description.eod] for text in TEXTS]
    )
    description.copy_to(folder / "corpus.tokenizer")
    write_manifest(
        prefix,
        replace(
            write_its_manifest(prefix),
            tokenizer=TokenizerRecord(
                kind=description.kind,
                folder="corpus.tokenizer",
                sha256=description.sha256,
                vocab_size=description.vocab_size,
                eod=description.eod,
                megatron_flags=list(description.megatron_flags),
                encoder="gigatoken 0.10",
                checked_documents=12,
                fell_back=None,
            ),
        ),
    )
    return prefix


@pytest.mark.parametrize("kind", KINDS)
def test_single_tokens_are_what_they_add_to_the_text(kind, tmp_path: Path) -> None:
    description = describe(kind(tmp_path))
    text = TokenText(description)
    said = "cats sat on 17 mats, 3 more sat."
    ids = encode(description, said)
    assert "".join(map(text.piece, ids)) == text.document(ids) == said
    ids = encode(description, "a\nb\t\x1b[31m")
    assert "".join(map(text.piece, ids)) == "a\\nb\\t\\x1b[31m"
    assert text.document(ids) == "a\nb\t\\x1b[31m"
    assert "€" in text.document(encode(description, "1 €"))
    assert all(text.piece(one).isprintable() for one in range(description.vocab_size))
    assert text.piece(description.vocab_size) == f"<id {description.vocab_size}>"


def test_documents_are_printed_as_text(real: Path, capsys) -> None:
    assert command(real, "--documents", "0,5,58-59") == 0
    said = capsys.readouterr().out
    for number in range(60):
        assert (TEXTS[number] in said) == (number in (0, 5, 58, 59))
    assert "document 58: " in said
    assert "gigatoken 0.10, 12 documents checked with the reference" in said
    assert "corpus.jsonl: 60 documents" in said
    assert "2 not JSON" in said
    assert f"of {real.name}: 3 .pdf" in said


def test_without_a_tokenizer_ids_are_printed(tmp_path: Path, capsys) -> None:
    prefix = write_corpus(tmp_path / "corpus", [[7, 8, 9], [10, 11]], sequences=[[1, 2], [2]])
    assert command(prefix, "--documents", "0-1") == 0
    said = capsys.readouterr().out
    assert "\n7 8 9\n" in said
    assert "\n10 11\n" in said
    assert "3, so several a document" in said
    assert "name their tokenizer with --tokenizer" in said


def test_a_tokenizer_can_be_named(real: Path, tmp_path: Path, capsys) -> None:
    for ending in ("bin", "idx"):
        (tmp_path / f"c.{ending}").write_bytes(Path(f"{real}.{ending}").read_bytes())
    command(tmp_path / "c", "--documents", "3", "--tokenizer", real.parent / "sp.model")
    assert TEXTS[3] in capsys.readouterr().out


def test_what_cannot_be_shown_is_one_sentence(real: Path, tmp_path: Path) -> None:
    def refused(pattern: str, *words: str, prefix: Path = real) -> None:
        with pytest.raises(UserError, match=pattern):
            command(prefix, *words)

    refused("there is no document 60, as the corpus has 60", "--documents=60")
    refused("is not numbers: write for example", "--documents=1,b")
    refused("add --seq-length", "--samples=1")
    refused("--samples 0 is below 1", "--samples=0", "--seq-length=8")
    refused("too small for one sample", "--samples=1", "--seq-length=99999", "--tst-bag-size=4")
    refused(
        "two forms of one thing",
        "--samples=1",
        "--seq-length=8",
        "--tst-bag-size=4",
        "--tst-schedule=4:0.1",
    )
    refused("5-3 ends before it begins", "--documents=5-3")
    refused("--seed 0 is no seed", "--samples=1", "--seq-length=8", "--seed=0")
    refused("'90,,10' is not three", "--samples=1", "--seq-length=8", "--split=90,,10")
    refused("leaves no documents to train on", "--samples=1", "--seq-length=8", "--split=0,1,0")
    refused("cannot be written: No such file", f"--histogram={tmp_path / 'no' / 'h.png'}")
    refused("is missing", prefix=tmp_path / "nothing")
    for ending in ("bin", "idx"):
        (tmp_path / f"c.{ending}").write_bytes(Path(f"{real}.{ending}").read_bytes()[:-3])
    refused(r"is bad: .*c.idx, bytes \d+-\d+", prefix=tmp_path / "c")


def test_another_tokenizer_in_the_folder_is_noticed(real: Path, tmp_path: Path) -> None:
    for ending in ("bin", "idx", "manifest.json"):
        (tmp_path / f"corpus.{ending}").write_bytes(Path(f"{real}.{ending}").read_bytes())
    folder = tmp_path / "corpus.tokenizer"
    folder.mkdir()
    with pytest.raises(UserError, match=r"tokenizer.model is missing"):
        command(tmp_path / "corpus", "--documents=0")
    SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=60,
        minloglevel=2,
    )
    with pytest.raises(UserError, match="is not the one that"):
        command(tmp_path / "corpus", "--documents=0")


@pytest.mark.parametrize(
    ("run", "sizes"),
    [
        ("--tst-schedule=4:0.3,2:0.2 --train-iters=100 --global-batch-size=4", (4, 2, 1)),
        ("--tst-bag-size=4", (4, 1)),
        # More than the steps that are tried first, where none are given.
        ("--tst-schedule=2:1100steps", (2, 1)),
    ],
)
def test_samples_are_contiguous_text_shifted_by_a_bag(
    tmp_path, capsys, run: str, sizes: tuple[int, ...]
) -> None:
    """Every id is its own place in the corpus, so that a sample shows what it was cut from."""
    lengths = np.random.default_rng(0).integers(20, 200, size=200)
    starts = np.cumsum(lengths) - lengths
    documents = [np.arange(a, a + n) for a, n in zip(starts, lengths, strict=True)]
    prefix = write_corpus(tmp_path / "counted", documents, np.int32)
    words = [prefix, "--samples=3", "--seq-length=6"]
    words += ["--tokenizer", f"null:{lengths.sum() + 1}", *run.split()]
    assert command(*words) == 0
    samples = capsys.readouterr().out.split("\nsample ")[1:]
    assert len(samples) == 3 * len(sizes)
    for i, sample in enumerate(samples):
        size = sizes[i // 3]
        head, inputs, targets = sample.rstrip().split("\n")
        number = int(head.split(":")[0].replace(",", ""))
        kind = f"bags of {size}" if size > 1 else "single tokens"
        assert head.endswith(f": {kind}, 6 positions")
        if 4 in sizes and 2 in sizes:
            assert (number < 120) == (size == 4)
            assert (number < 200) == (size > 1)
        flat = []
        for line in (inputs, targets):
            bags = line[len("  inputs   ") :].strip("[]").split("][" if size > 1 else "|")
            assert len(bags) == 6
            flat.append([[int(one) for one in bag.split("|")] for bag in bags])
            assert all(len(bag) == size for bag in flat[-1])
        assert flat[0][1:] == flat[1][:-1]
        ids = [one for bag in [*flat[0], flat[1][-1]] for one in bag]
        for now, following in pairwise(ids):
            assert following == now + 1 or following in starts


def test_samples_of_text_show_its_pieces(real: Path, capsys) -> None:
    assert command(real, "--samples=1", "--seq-length=8", "--tst-bag-size=3", "--positions=2") == 0
    said = capsys.readouterr().out
    assert "bags of 3, 8 positions, the first 2 of them" in said
    inputs = next(line for line in said.split("\n") if line.startswith("  inputs   ["))
    pieces = inputs.removeprefix("  inputs   [").removesuffix("]").replace("][", "|").split("|")
    assert len(pieces) == 6
    # The end of a document has a name, and what follows it is another one's text.
    text = "".join(pieces).split("</s>")[0].replace("\\n", "\n").replace("\\t", "\t")
    assert any(text in one for one in TEXTS)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_with_every_kind_of_tokenizer(kind, tmp_path: Path, capsys) -> None:
    spec = kind(tmp_path)
    description = describe(spec)
    prefix = write_corpus(tmp_path / "c", [encode(description, text) for text in TEXTS])
    assert (
        command(prefix, "--samples=1", "--seq-length=4", "--tst-bag-size=3", "--tokenizer", spec)
        == 0
    )
    lines = capsys.readouterr().out.split("\n")
    inputs = [line[len("  inputs   ") :] for line in lines if line.startswith("  inputs")]
    assert len(inputs) == 2
    # Documents follow one another without an end here.
    text = "".join(TEXTS[i] for i in range(60)).replace("\n", "\\n").replace("\t", "\\t")
    assert inputs[1].replace("|", "")[:3] in text


def test_bags_that_end_with_their_documents_show_empty_places(tmp_path: Path, capsys) -> None:
    prefix = write_corpus(tmp_path / "odd", [[11, 12, 13, 14, 15]] * 500)
    command(
        prefix, "--samples=2", "--seq-length=6", "--tst-bag-size=3", "--tst-bag-boundary=document"
    )
    said = capsys.readouterr().out
    lines = [line[len("  inputs   ") :] for line in said.split("\n") if line.startswith("  inputs")]
    whole, end = "[11|12|13]", f"[14|15|{NO_TOKEN}]"
    assert len(lines) == 4
    assert set(lines[:2]) <= {3 * (whole + end), 3 * (end + whole)}


def test_places_without_a_token_are_dots() -> None:
    sample = Sample(1234, "bags of 3", [[5, 6, None]], [[7, None, None]], is_grouped=True)
    shown = [line.plain for line in as_text(sample, TokenText(None))]
    assert shown == [
        "sample 1,234: bags of 3, 1 positions",
        f"  inputs   [5|6|{NO_TOKEN}]",
        f"  targets  [7|{NO_TOKEN}|{NO_TOKEN}]",
    ]


@given(
    lengths=st.lists(st.integers(0, 300), min_size=1, max_size=50),
    inner=st.sets(st.integers(1, 300), max_size=8),
)
def test_bins_hold_every_length_once(lengths: list[int], inner: set[int]) -> None:
    edges = [0, *sorted(inner), 301]
    for one in bins_of(np.array(lengths), edges):
        own = [length for length in lengths if one.low <= length < one.high]
        assert (one.documents, one.tokens) == (len(own), sum(own))


@given(documents=st.lists(st.integers(0, 3000), max_size=40))
def test_the_histogram_counts_every_document(documents: list[int]) -> None:
    index = SimpleNamespace(
        lengths=np.array(documents, np.int32),
        document_boundaries=np.arange(len(documents) + 1),
    )
    lengths = lengths_of(index)
    assert lengths.total == sum(documents)
    rows = histogram_lines(lengths)[1:]
    counts = [int(row.split("%")[0].split()[-2].replace(",", "")) for row in rows]
    assert sum(counts) == len(documents)
    if documents:
        ordered = sorted(documents)
        assert lengths.longest == ordered[-1]
        assert lengths.percentiles[50] == ordered[(len(documents) - 1) // 2]
        assert counts[0] > 0
        assert counts[-1] > 0


@pytest.mark.parametrize("documents", [[], [[EOD]], [[]], random_documents(300)])
def test_the_png_is_a_picture(tmp_path: Path, documents, capsys) -> None:
    prefix = write_corpus(tmp_path / "corpus", documents)
    picture = tmp_path / "lengths.png"
    assert command(prefix, "--histogram", picture) == 0
    height, width, _ = imread(picture).shape
    assert width > height > 400
    assert imread(picture)[:, :, 0].std() > 0.01
    assert str(picture) in capsys.readouterr().out


def test_lengths_of_documents_of_several_sequences(tmp_path: Path) -> None:
    documents = [[1, 2, 3], [4], [], [5, 6]]
    prefix = write_corpus(tmp_path / "c", documents, sequences=[[1, 0, 2], [1], [], [2]])
    assert index_path(prefix).exists()
    assert lengths_of(read_index(prefix)).of_documents.tolist() == [3, 1, 0, 2]
