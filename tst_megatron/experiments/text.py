"""Text made ready to train on, in one folder: its tokenizer and its index."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tst_megatron.corpora.manifest import manifest_path
from tst_megatron.corpora.reading.inputs import InputFile
from tst_megatron.corpora.small_corpora import at_least, documents_of, index_documents
from tst_megatron.corpora.tokenizers.training import train_tokenizer

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
