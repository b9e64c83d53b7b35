"""What many tests need: the CPU backend before Megatron, and a small real corpus."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

from tst_megatron.backends import prepare_backend

# Before any test imports Megatron, which looks for a GPU as it is imported.
prepare_backend()


@dataclass(frozen=True)
class Corpus:
    """A tokenizer and an index made from part of the standard library."""

    tokenizer: Path
    prefix: Path
    num_documents: int
    num_tokens: int
    documents: tuple[str, ...]

    @property
    def flags(self) -> tuple[str, ...]:
        return (
            f"--tokenizer-model={self.tokenizer}",
            f"--data-path={self.prefix}",
            f"--data-cache-path={self.prefix.parent / 'cache'}",
        )


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    from tst_megatron.corpora.small_corpora import bundled_files, documents_of, index_documents
    from tst_megatron.corpora.tokenizers.training import train_tokenizer

    folder = tmp_path_factory.mktemp("corpus")
    documents = tuple(documents_of(bundled_files()[:60]))
    model, prefix = folder / "tokenizer.model", folder / "corpus"
    train_tokenizer(documents, model, 384)
    indexed = index_documents(documents, model, prefix, Console(quiet=True))
    return Corpus(model, prefix, indexed.documents, indexed.tokens, documents)
