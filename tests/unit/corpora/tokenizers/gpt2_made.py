"""GPT-2's two files: bytes in its order, what is merged after them, and the end last."""

import json
from pathlib import Path

import made_tokenizers as made
from tokenizers import Tokenizer, models, pre_tokenizers, trainers


def folder_of_two_files(folder: Path) -> Path:
    """``vocab.json`` and ``merges.txt`` in a new folder."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(made.TEXT, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    # Printable characters stand for themselves and come first; U+0100 and on for other bytes.
    tokens = [*sorted(alphabet), *("".join(pair) for pair in merges), made.END]
    folder.mkdir()
    vocabulary = {token: number for number, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
