"""The text of runs: made ready in one folder, its tokenizer and its index, and how much is read.

What a run reads is counted as `tst-megatron index budget` does.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tst_megatron.corpora.blend import expand_blend, is_remote
from tst_megatron.corpora.budget import Budget, check_files, check_no_empty_stage
from tst_megatron.corpora.manifest import manifest_path
from tst_megatron.corpora.reading.inputs import InputFile
from tst_megatron.corpora.small_corpora import at_least, documents_of, index_documents
from tst_megatron.corpora.sources import all_prefixes
from tst_megatron.corpora.tokenizers.training import train_tokenizer
from tst_megatron.recipes import expand_recipe

# Enough for phases and held-out text of the right sizes, as these are cut at whole documents.
_FEWEST_DOCUMENTS = 500


@dataclass(frozen=True)
class PreparedText:
    """Where a folder has its parts.

    Attributes:
        folder: of the tokenizer and the index.
    """

    folder: Path

    @property
    def tokenizer(self) -> Path:
        """The SentencePiece model."""
        return self.folder / "tokenizer.model"

    @property
    def corpus(self) -> Path:
        """Prefix of Megatron's index."""
        return self.folder / "corpus"

    @property
    def flags(self) -> tuple[str, ...]:
        """Megatron's, of a run that reads it."""
        return (
            f"--tokenizer-model={self.tokenizer}",
            f"--data-path={self.corpus}",
            f"--data-cache-path={self.folder / 'cache'}",
        )

    def make(self, files: list[InputFile], vocab_size: int, console: Console) -> None:
        """Make what is not there yet.

        Args:
            files: of the text.
            vocab_size: pieces of the tokenizer.
            console: where progress goes.

        Raises:
            UserError: the text holds too few characters, or the folder cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.tokenizer.exists() and manifest_path(self.corpus).exists():
            return
        documents = at_least(_FEWEST_DOCUMENTS, list(documents_of(files)))
        if not self.tokenizer.exists():
            with console.status("Training the tokenizer"):
                train_tokenizer(documents, self.tokenizer, vocab_size)
            console.print(f"Trained a tokenizer of {vocab_size} pieces.", highlight=False)
        indexed = index_documents(documents, self.tokenizer, self.corpus, console)
        console.print(
            f"Indexed {indexed.documents:,} documents, {indexed.tokens:,} tokens.", highlight=False
        )


@dataclass(frozen=True)
class TextRead:
    """What a run reads.

    Attributes:
        data_tokens: in all its steps.
        epochs: how often its most-read stage reads its documents; None of text elsewhere.
        repeats: whether that is more often than its source allows.
    """

    data_tokens: int
    epochs: float | None
    repeats: bool


def text_read(flags: Sequence[str]) -> TextRead:
    """What a run reads.

    Args:
        flags: its command line after ``pretrain``.

    Raises:
        UserError: a flag of ours or of the data is wrong, the corpus is missing, or a stage has no
            document.
    """
    # Not needed to make text ready, which needs no method.
    from tst_megatron.methods.registry import check_own_flags
    from tst_megatron.trainer.commands import index_budget
    from tst_megatron.trainer.reading import check_held_out, reading_from_args

    parser = argparse.ArgumentParser(prog="tst-megatron", allow_abbrev=False)
    index_budget.add_arguments(parser)
    args = parser.parse_known_args(expand_blend(expand_recipe(list(flags))))[0]
    check_own_flags(args)
    check_files([prefix for prefix in all_prefixes(args) if not is_remote(prefix)])
    check_held_out(args)
    reading = reading_from_args(args)
    data_tokens = sum(part.data_tokens for part in reading.parts(reading.train_iters))
    if any(source.is_remote for source in reading.sources):
        return TextRead(data_tokens, None, False)
    budget = Budget(reading)
    check_no_empty_stage(budget.stages)
    return TextRead(data_tokens, max(stage.epochs for stage in budget.stages), not budget.is_met)
