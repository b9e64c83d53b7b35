"""Wherever files are cut, the documents are the same and in the same order."""

import json
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from read_files import Read, jsonl, parquet

from tst_megatron.corpora.reading.chunks import Chunk, Span, cut
from tst_megatron.corpora.reading.documents import ReadOptions
from tst_megatron.corpora.reading.inputs import find_inputs

BLANK_LINE = ReadOptions(text_documents="blank-line")
CHARACTERS = st.sampled_from(
    ["a", "b", " ", "\n", "\r", "\t", "ü", "漢", "🙂", '"', "\\", "{", ","]
)
TEXT = st.lists(CHARACTERS, max_size=20).map("".join)


def blocks_of(size: int):
    names = ("json_files.BLOCK_BYTES", "json_files._END_BLOCK_BYTES", "plain_text.BLOCK_BYTES")
    package = "tst_megatron.corpora.reading"
    return [mock.patch(f"{package}.{name}", size) for name in names]


def read_with_blocks(size: int, *arguments, **options) -> Read:
    patches = blocks_of(size)
    for patch in patches:
        patch.start()
    try:
        return Read(*arguments, **options)
    finally:
        for patch in patches:
            patch.stop()


SIZES = st.integers(1, 60)


@settings(max_examples=300, deadline=None)
@given(
    lines=st.lists(
        st.one_of(
            TEXT.filter(bool).map(lambda text: json.dumps({"text": text}, ensure_ascii=False)),
            st.sampled_from(["", " ", "{}", "not JSON", '{"text": ""}']),
        ),
        max_size=8,
    ),
    line_end=st.sampled_from(["\n", "\r\n"]),
    ends=st.booleans(),
    block=SIZES,
    target=SIZES,
)
def test_json_lines(lines, line_end, ends, block, target):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.jsonl")
        path.write_bytes((line_end.join(lines) + line_end * ends).encode())
        expected = []
        for line in lines:
            if line.startswith('{"text"') and json.loads(line)["text"]:
                expected.append(json.loads(line)["text"])
        wrong = ("{}", "not JSON", '{"text": ""}')
        read = read_with_blocks(block, [path], target_bytes=target)
        assert read.documents == expected
        right = [i for i, x in enumerate(lines, 1) if x.strip() and x not in wrong]
        assert read.numbers == right
        assert [one[0] for one in read.bad] == [i for i, x in enumerate(lines, 1) if x in wrong]
        assert read.read == [path.stat().st_size]
        assert sum(batch.records for batch in read.batches) == len(path.read_bytes().splitlines())


def obvious_paragraphs(text: bytes) -> list[tuple[int, bytes]]:
    """Line and content of every document, a line at a time."""
    documents: list[tuple[int, list[bytes]]] = []
    in_document = False
    for number, line in enumerate(text.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        blank = not line.strip(b" \t\r")
        if not blank and not in_document:
            documents.append((number, []))
        in_document = not blank
        if not blank:
            documents[-1][1].append(line)
    return [(number, b"\n".join(found)) for number, found in documents]


@settings(max_examples=500, deadline=None)
@given(
    pieces=st.lists(
        st.sampled_from(
            [
                b"a",
                b"bc",
                b" ",
                b"\t",
                b"\r",
                b"\n",
                b"\n\n",
                b"\n \n",
                b"\xc3\xbc",
                b"\xff",
                b"!" * 9,
            ]
        ),
        max_size=40,
    ),
    mark=st.booleans(),
    block=SIZES,
    target=SIZES,
)
def test_text_between_blank_lines(pieces, mark, block, target):
    content = b"\xef\xbb\xbf" * mark + b"".join(pieces)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.txt")
        path.write_bytes(content)
        whole = Read([path], BLANK_LINE)
        options = ReadOptions(text_documents="blank-line", max_document_bytes=8)
        read = read_with_blocks(block, [path], BLANK_LINE, target_bytes=target)
        short = read_with_blocks(block, [path], options, target_bytes=target)
    assert (read.documents, read.bad) == (whole.documents, whole.bad)
    assert read.read == [len(content)]
    good, bad, short_good, short_bad = [], [], [], []
    numbers = []
    for line, document in obvious_paragraphs(content):
        document = document.removesuffix(b"\r")
        if len(document) > 8:
            short_bad.append((line, "the document is longer than 8 bytes", ""))
        try:
            good.append(document.decode())
            numbers.append(line)
            if len(document) <= 8:
                short_good.append(document.decode())
        except UnicodeDecodeError as error:
            one = (line, "not valid UTF-8", f"byte {error.start + 1} of the record")
            bad.append(one)
            if len(document) <= 8:
                short_bad.append(one)
    assert (read.documents, read.bad) == (good, bad)
    assert read.numbers == numbers
    assert (short.documents, [one[0] for one in short.bad]) == (
        short_good,
        [one[0] for one in short_bad],
    )


@settings(max_examples=25, deadline=None)
@given(documents=st.lists(TEXT.filter(bool), max_size=12), target=st.integers(1, 1000))
def test_parquet(documents, target):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.parquet")
        path.write_bytes(parquet(documents))
        read = Read([path], target_bytes=target)
        assert read.documents == documents
        assert read.numbers == list(range(1, len(documents) + 1))
        assert read.read == [path.stat().st_size]


def test_small_files_share_a_chunk_and_large_ones_are_cut(tmp_path):
    for name, size in (("a", 1), ("b", 2), ("c", 90), ("d", 1)):
        (tmp_path / f"{name}.jsonl").write_bytes(jsonl(["x" * 10] * size))
    one = len(jsonl(["x" * 10]))
    files = find_inputs([str(tmp_path)]).files
    third = 90 * one // 3
    assert cut(files, ReadOptions(), 30 * one) == [
        Chunk((Span(0, 0, one), Span(1, 0, 2 * one))),
        Chunk((Span(2, 0, third),)),
        Chunk((Span(2, third, 2 * third),)),
        Chunk((Span(2, 2 * third, 3 * third),)),
        Chunk((Span(3, 0, one),)),
    ]


def test_row_groups_are_cut_by_the_bytes_of_the_documents_column(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(
        parquet(
            [f"{i}" * 2000 for i in range(10)],
            compression="zstd",
            use_dictionary=False,
            write_statistics=False,
        )
    )
    files = find_inputs([str(path)]).files
    spans = [one for chunk in cut(files, ReadOptions(), 8500) for one in chunk.spans]
    assert spans == [Span(0, 0, 2), Span(0, 2, 4), Span(0, 4, 5)]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json", "a.arrow", "a.txt"])
def test_what_cannot_be_cut_is_one_part(tmp_path, name):
    (tmp_path / name).write_bytes(b"[" + b" " * 1000)
    files = find_inputs([str(tmp_path / name)]).files
    assert cut(files, ReadOptions(), 10) == [Chunk((Span(0, 0, 1),))]
