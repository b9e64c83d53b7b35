"""Our index reader and writer against Megatron's."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from megatron.core.datasets.indexed_dataset import (
    DType,
    IndexedDatasetBuilder,
    _IndexReader,
    _IndexWriter,
)

from tst_megatron.corpora.index_file import dtype_of_vocabulary, index_path, read_index, write_index
from tst_megatron.errors import UserError


@settings(deadline=None, max_examples=30)
@given(
    lengths=st.lists(st.integers(0, 2**31 - 1), max_size=50),
    cuts=st.lists(st.integers(0, 50), max_size=5),
    dtype=st.sampled_from(["uint16", "int32", "uint8", "int64"]),
)
def test_writes_what_megatron_writes(
    lengths: list[int], cuts: list[int], dtype: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("index") / "theirs.idx"
    with _IndexWriter(str(file), getattr(np, dtype)) as writer:
        writer.write(lengths, None, list(range(len(lengths) + 1)))
    ours = BytesIO()
    blocks = np.split(np.array(lengths, np.int32), sorted(c for c in cuts if c < len(lengths)))
    write_index(ours.write, np.dtype(dtype), len(lengths), lambda: blocks)
    assert ours.getvalue() == file.read_bytes()


def test_reads_what_megatron_reads(tmp_path: Path) -> None:
    prefix = tmp_path / "corpus"
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.int32)
    rng = np.random.default_rng(0)
    for _ in range(20):
        parts = rng.integers(1, 9, size=rng.integers(1, 4)).tolist()
        builder.add_document(torch.arange(sum(parts)), parts)
    builder.finalize(f"{prefix}.idx")
    ours, theirs = read_index(prefix), _IndexReader(f"{prefix}.idx", multimodal=False)
    assert ours.dtype == theirs.dtype
    assert ours.num_documents == 20
    assert ours.num_tokens == int(theirs.sequence_lengths.sum())
    np.testing.assert_array_equal(ours.lengths, theirs.sequence_lengths)
    np.testing.assert_array_equal(ours.pointers, theirs.sequence_pointers)
    np.testing.assert_array_equal(ours.document_boundaries, theirs.document_indices)


@pytest.mark.parametrize("vocab_size", [1, 255, 256, 65499, 65500, 65536, 151936])
def test_stores_ids_in_megatrons_dtype(vocab_size: int) -> None:
    assert dtype_of_vocabulary(vocab_size) == DType.optimal_dtype(vocab_size)


@pytest.mark.parametrize("left", [0, 5, 33, 34, 60])
def test_refuses_an_index_cut_short(left: int, tmp_path: Path) -> None:
    whole = BytesIO()
    write_index(whole.write, np.dtype(np.uint16), 3, lambda: [np.array([1, 2, 3], np.int32)])
    index_path(tmp_path / "c").write_bytes(whole.getvalue()[:left])
    with pytest.raises(UserError, match=r"c\.idx (is broken|is cut short)"):
        read_index(tmp_path / "c")


def test_refuses_a_missing_index(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_index(tmp_path / "none")
