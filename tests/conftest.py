"""What many tests need: the CPU backend before Megatron, and a small real corpus."""

import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

# Where transformers copies the code of a model that it is told to trust: not to the user's cache.
CODE_OF_MODELS = tempfile.TemporaryDirectory(prefix="models-")
os.environ["HF_MODULES_CACHE"] = CODE_OF_MODELS.name

from tst_megatron.backends import prepare_backend, prepare_to_import
from tst_megatron.trainer.machine import ATTENTION_VARIABLES

# Before any test imports Megatron, which looks for a GPU as it is imported. Where `make test-te`
# promises Transformer Engine, models of its modules are built in this process, and what trains does
# so in another.
if os.environ.get("TST_MEGATRON_NEEDS_TE"):
    prepare_to_import()
else:
    prepare_backend()


@pytest.fixture(autouse=True)
def no_attention_of_another_test() -> Iterator[None]:
    """Megatron's models write their attention into the environment, and runs would inherit it."""
    yield
    for name in ATTENTION_VARIABLES:
        os.environ.pop(name, None)


@pytest.fixture(autouse=True)
def no_routers_of_another_test() -> Iterator[None]:
    """Megatron keeps figures of a model's routers for the process, by the first one's layers."""
    yield
    if (module := sys.modules.get("megatron.core.transformer.moe.moe_logging")) is not None:
        module.destroy_moe_metrics_tracker()


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
