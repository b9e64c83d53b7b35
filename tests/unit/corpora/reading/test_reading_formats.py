"""The same documents, whatever they are written as."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from read_files import COMPRESSIONS, FORMATS, Read, json_array, jsonl, parquet

from tst_megatron.corpora.reading import csv_files, json_files, tables
from tst_megatron.corpora.reading.chunks import read_documents
from tst_megatron.corpora.reading.documents import ReadOptions
from tst_megatron.corpora.reading.fields import parse_where
from tst_megatron.corpora.reading.inputs import find_inputs
from tst_megatron.errors import UserError

DOCUMENTS = [
    "first",
    'with\na line end and \ttabs \\ " quotes, [brackets], {braces}',
    "ünïcödé 漢字 🙂 \u2028 end",
    " spaces around ",
    "x" * 5000,
    "}],[{\\",
    "last",
]
BLANK_LINE = ReadOptions(text_documents="blank-line")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("format", FORMATS)
def test_every_format_gives_the_same_documents(tmp_path, format, compression):
    # What TSV has in quotes may be meant otherwise, and is refused.
    several = [one for one in DOCUMENTS if "\n" in one or "\t" in one]
    documents = [one for one in DOCUMENTS if format != "tsv" or one not in several]
    content = COMPRESSIONS[compression](FORMATS[format](documents))
    path = written(tmp_path, f"corpus.{format}{compression}", content)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    read = Read([path], BLANK_LINE, scratch=scratch)
    assert read.documents == documents
    assert (read.bad, read.broken) == ([], [])
    assert read.read == [len(content)]
    assert sum(b.text_bytes for b in read.batches) == sum(len(d.encode()) for d in documents)
    assert list(scratch.iterdir()) == []
    assert list(read_documents(read.files, BLANK_LINE)) == documents


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_text_file_is_a_document_with_its_line_ends(tmp_path, compression):
    text = "\n\none\r\n\r\ntwo ü\n"
    content = COMPRESSIONS[compression](BYTE_ORDER_MARK + text.encode() + b"x" * 100)
    read = Read([written(tmp_path, f"a.txt{compression}", content)])
    assert read.documents == [text + "x" * 100]
    assert read.read == [len(content)]


def test_text_between_blank_lines(tmp_path):
    text = b"\xef\xbb\xbf\n \n  one\n two  \n\t \r\n\n\nthree\r\n\r\nfour\r\nfive\n   \n "
    read = Read([written(tmp_path, "a.txt", text)], BLANK_LINE)
    assert read.documents == ["  one\n two  ", "three", "four\r\nfive"]


def test_json_lines_with_a_byte_order_mark_and_blank_lines(tmp_path):
    lines = BYTE_ORDER_MARK + b'{"text": "a"}\r\n\r\n  \n{"text": "b"}'
    read = Read([written(tmp_path, "a.jsonl", lines)])
    assert (read.documents, read.bad) == (["a", "b"], [])
    assert sum(batch.records for batch in read.batches) == 4


def test_a_json_file_holds_an_array_or_lines(tmp_path):
    array = written(tmp_path, "a.json", BYTE_ORDER_MARK + b" \n" + json_array(["a"]) + b" \n")
    lines = written(tmp_path, "b.json", jsonl(["b", "c"]))
    assert Read([array, lines]).documents == ["a", "b", "c"]
    assert [file.format for file in find_inputs([str(array), str(lines)]).files] == [
        "json",
        "jsonl",
    ]


@pytest.mark.parametrize("array", [b"[]", b" [ \n ]\n"])
def test_an_array_of_nothing(tmp_path, array):
    read = Read([written(tmp_path, "a.json", array)])
    assert (read.documents, read.bad, read.broken) == ([], [], [])


def test_an_empty_table(tmp_path):
    path = written(tmp_path, "a.parquet", parquet([]))
    read = Read([path])
    assert (read.documents, read.broken, read.read) == ([], [], [path.stat().st_size])


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64])
def test_an_array_is_the_same_whatever_blocks_it_is_read_in(tmp_path, monkeypatch, block):
    monkeypatch.setattr("tst_megatron.corpora.reading.json_files.BLOCK_BYTES", block)
    records = [{"text": d, "more": [{"a": [1, "]\\"]}, {}, "\\\\", '"']} for d in DOCUMENTS[:4]]
    assert (
        Read([written(tmp_path, "a.json", json.dumps(records).encode())]).documents
        == (DOCUMENTS[:4])
    )


NESTED = [
    {"meta": {"text": "a", "more": {"score": 1}}, "a.b": "x"},
    {"meta": {"text": "b", "more": {"score": 5}}, "a.b": "y"},
    {"meta": {"text": "c", "more": {"score": 9}}, "a.b": "z"},
]


@pytest.mark.parametrize("format", ["jsonl", "json", "parquet", "arrow"])
def test_a_dotted_path_and_a_filter(tmp_path, format):
    path = tmp_path / f"a.{format}"
    if format == "jsonl":
        path.write_text("\n".join(map(json.dumps, NESTED)))
    elif format == "json":
        path.write_text(json.dumps(NESTED))
    elif format == "parquet":
        pq.write_table(pa.Table.from_pylist(NESTED), path)
    else:
        table = pa.Table.from_pylist(NESTED)
        with pa.ipc.new_stream(str(path), table.schema) as writer:
            writer.write_table(table)
    where = parse_where("meta.more.score >= 5")
    read = Read([path], ReadOptions(field="meta.text", where=where))
    assert read.documents == ["b", "c"]
    assert sum(batch.filtered for batch in read.batches) == 1
    assert Read([path], ReadOptions(field="a.b")).documents == ["x", "y", "z"]


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.dictionary(pa.int32(), pa.string()),
    ],
    ids=str,
)
def test_strings_of_every_kind(tmp_path, kind):
    table = pa.table({"text": pa.array(["a", "ü", "b"], pa.string()).cast(kind)})
    for format, write in (("parquet", pq.write_table), ("arrow", write_arrow)):
        path = tmp_path / f"a.{format}"
        write(table, path)
        assert Read([path]).documents == ["a", "ü", "b"]


def write_arrow(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize("format", ["jsonl", "json", "parquet", "arrow"])
def test_ids(tmp_path, format):
    records = [{"ids": [1, 2, 70000]}, {"ids": [3]}, {"ids": []}, {"ids": [1, None]}, {"ids": None}]
    table = pa.table({"ids": pa.array([one["ids"] for one in records], pa.list_(pa.int32()))})
    path = tmp_path / f"a.{format}"
    if format == "parquet":
        pq.write_table(table, path)
    elif format == "arrow":
        write_arrow(table, path)
    elif format == "json":
        path.write_text(json.dumps(records))
    else:
        path.write_text("\n".join(map(json.dumps, records)))
    read = Read([path], ReadOptions(field="ids", reads="ids"))
    assert [np.asarray(ids).tolist() for ids in read.documents] == [[1, 2, 70000], [3]]
    assert all(ids.dtype.kind == "i" for ids in read.documents)
    assert read.bad == [
        (3, "the document is empty", ""),
        (4, 'field "ids" holds something other than ids', ""),
        (5, 'field "ids" is null, not a list of ids', ""),
    ]
    assert sum(batch.text_bytes for batch in read.batches) == 0


def test_ids_as_text(tmp_path):
    text = written(tmp_path, "a.txt", b"1 2 3\n\n4\n")
    lines = written(tmp_path, "a.jsonl", jsonl(["5 6"]))
    options = ReadOptions(reads="ids", text_documents="blank-line")
    assert Read([text, lines], options).documents == ["1 2 3", "4", "5 6"]


def test_batches_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "BATCH_BYTES", 1000)
    monkeypatch.setattr(csv_files, "BATCH_CHARACTERS", 1000)
    monkeypatch.setattr(json_files, "BLOCK_BYTES", 1000)
    monkeypatch.setattr("tst_megatron.corpora.reading.plain_text.BLOCK_BYTES", 1000)
    documents = [f"{i} " + "y" * (i % 300) for i in range(500)]
    for format, write in FORMATS.items():
        path = tmp_path / f"a.{format}"
        path.write_bytes(write(documents))
        if format == "parquet":
            path.write_bytes(parquet(documents, row_group_size=500))
        read = Read([path], BLANK_LINE)
        assert read.documents == documents
        assert max(batch.text_bytes for batch in read.batches) <= 1000 + 300 + 10, format


def test_reading_one_after_another_stops_at_the_first_bad_record(tmp_path):
    path = written(tmp_path, "a.jsonl", jsonl(["a", "b"]) + b'{"text": 3}\n')
    documents = read_documents(find_inputs([str(path)]).files, ReadOptions())
    assert next(documents) == "a"
    message = f'{path}, record 3: field "text" is a number, not a string'
    with pytest.raises(UserError, match=message):
        list(documents)
