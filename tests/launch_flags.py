"""Flags of Megatron-LM's own launch scripts, from the files in ``tests/launch_scripts``."""

import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

FOLDER = Path(__file__).parent / "launch_scripts"
END = "<|endoftext|>"


@dataclass(frozen=True)
class Gpt2Files:
    """A small tokenizer as GPT-2's is handed on, and a corpus that was indexed with it."""

    vocab: Path
    merges: Path
    data: Path
    tokenizer: Tokenizer


def gpt2_files(folder: Path, documents: tuple[str, ...]) -> Gpt2Files:
    """Make them with the libraries that GPT-2's own are made and read with."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[END],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(documents, trainer)
    vocab, merges = map(Path, tokenizer.model.save(str(folder)))
    data = folder / "gpt2_text_document"
    builder = IndexedDatasetBuilder(f"{data}.bin", dtype=np.uint16)
    for document in documents:
        ids = [*tokenizer.encode(document).ids, tokenizer.token_to_id(END)]
        builder.add_document(torch.tensor(ids), [len(ids)])
    builder.finalize(f"{data}.idx")
    return Gpt2Files(vocab, merges, data, tokenizer)


def flags_of(script: str, **paths: object) -> list[str]:
    """The words of a script's command line, with the user's paths in them."""
    text = (FOLDER / f"{script}.flags").read_text().format(**paths)
    return shlex.split(text, comments=True)


def without(words: list[str], *flags: str) -> list[str]:
    """A command line without some flags and what they were given."""
    kept, keeps = [], True
    for word in words:
        if word.startswith("--"):
            keeps = word not in flags
        if keeps:
            kept.append(word)
    return kept
