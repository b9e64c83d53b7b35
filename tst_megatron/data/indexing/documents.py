"""From documents to Megatron's ``.bin`` and ``.idx``."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import batched
from pathlib import Path

import numpy as np
import torch
from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder
from sentencepiece import SentencePieceProcessor

_DOCUMENTS_AT_ONCE = 64


@dataclass(frozen=True)
class Indexed:
    """What was written: documents, and tokens with every document's end."""

    num_documents: int
    num_tokens: int


def index_documents(
    documents: Iterable[str],
    tokenizer: SentencePieceProcessor,
    prefix: Path,
    on_progress: Callable[[int], None] = lambda num_tokens: None,
) -> Indexed:
    """Tokenize documents and write them in order, each with the end-of-document token after it.

    Args:
        documents: the text.
        tokenizer: its end-of-sentence piece ends a document, as in Megatron's tokenizer.
        prefix: path of the two files without their ending; they appear when both are whole.
        on_progress: told the number of tokens written so far.

    Raises:
        OSError: the files cannot be written.
    """
    partial = prefix.with_name(f"{prefix.name}.partial")
    tokens_file, index_file = (partial.with_name(partial.name + e) for e in (".bin", ".idx"))
    dtype = DType.optimal_dtype(tokenizer.vocab_size())
    builder = IndexedDatasetBuilder(str(tokens_file), dtype=dtype)
    num_documents = num_tokens = 0
    for ids in _encoded(documents, tokenizer):
        builder.add_document(torch.from_numpy(ids), [len(ids)])
        num_documents, num_tokens = num_documents + 1, num_tokens + len(ids)
        on_progress(num_tokens)
    builder.finalize(str(index_file))
    # The index last: Megatron and we take a corpus for there when it is.
    tokens_file.replace(prefix.with_name(f"{prefix.name}.bin"))
    index_file.replace(prefix.with_name(f"{prefix.name}.idx"))
    return Indexed(num_documents, num_tokens)


def _encoded(
    documents: Iterable[str], tokenizer: SentencePieceProcessor
) -> Iterator[np.ndarray[tuple[int], np.dtype[np.int64]]]:
    end = tokenizer.eos_id()
    for batch in batched(documents, _DOCUMENTS_AT_ONCE):
        for ids in tokenizer.encode(list(batch), num_threads=-1):
            yield np.array([*ids, end], dtype=np.int64)
