"""``pretrain`` without tokenizer flags takes the tokenizer that its corpus was indexed with."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from trainer import TINY, Job, Result, run_all

from tst_megatron.corpora.index_file import bin_path, index_path
from tst_megatron.corpora.manifest import FileRecord, Manifest, TokenizerRecord, write_manifest
from tst_megatron.corpora.tokenizers.description import TokenizerDescription, describe
from tst_megatron.corpora.tokenizers.encoders import reference_encoder


def write_corpus(prefix: Path, description: TokenizerDescription, documents: tuple[str, ...]):
    """An index by Megatron's own builder, with the manifest and the tokenizer of ours beside it."""
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(str(bin_path(prefix)))
    encoder = reference_encoder(description)
    for document in documents:
        ids = torch.tensor([*encoder.encode([document]).ids.tolist(), description.eod])
        builder.add_document(ids, [len(ids)])
    builder.finalize(str(index_path(prefix)))
    description.copy_to(prefix.with_name(f"{prefix.name}.tokenizer"))
    record = TokenizerRecord(
        kind=description.kind,
        folder=f"{prefix.name}.tokenizer",
        sha256=description.sha256,
        vocab_size=description.vocab_size,
        eod=description.eod,
        megatron_flags=list(description.megatron_flags),
        encoder="the reference",
        checked_documents=0,
        fell_back=None,
    )
    file = FileRecord(0, "", [])
    manifest = Manifest([], {}, record, "int32", 1, 1, 1, 1, 0, {}, [], {}, file, file)
    write_manifest(prefix, manifest)


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory) -> dict[str, Result]:
    folder = tmp_path_factory.mktemp("tokenizers")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus.documents, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    documents = corpus.documents[:30]
    write_corpus(folder / "sp", describe(str(corpus.tokenizer)), documents)
    write_corpus(folder / "hf", describe(str(folder / "tokenizer.json")), documents)
    # TINY has SentencePiece's type, without a model; the corpus knows better.
    usual = (*TINY, "--tst-bag-size=2", f"--data-cache-path={folder / 'cache'}")
    named = (f"--tokenizer-model={corpus.tokenizer}", f"--data-path={folder / 'sp'}")
    jobs = {
        "sp": Job(folder / "sp-run", (*usual, f"--data-path={folder / 'sp'}")),
        "hf": Job(folder / "hf-run", (*usual, f"--data-path={folder / 'hf'}")),
        "sp-named": Job(folder / "named-run", (*usual, *named)),
    }
    return dict(zip(jobs, run_all(list(jobs.values())), strict=True))


def test_the_corpus_names_its_tokenizer(runs: dict[str, Result], corpus) -> None:
    assert "HuggingFaceTokenizer" in runs["hf"].output
    assert "SentencePieceTokenizer" in runs["sp"].output
    for name, vocab_size in (("sp", 384), ("hf", 400)):
        assert f"padded vocab (size: {vocab_size})" in runs[name].output


def test_it_is_the_same_as_naming_it(runs: dict[str, Result]) -> None:
    assert runs["sp"].losses == runs["sp-named"].losses
