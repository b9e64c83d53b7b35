"""What is bad is named by its record and reason, and everything else is read."""

import bz2
import gzip
import io
import json
import lzma
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from read_files import Read, arrow_file, arrow_stream, jsonl, lz4, parquet

from tst_megatron.corpora.reading import documents as documents_module
from tst_megatron.corpora.reading.batches import BrokenFile
from tst_megatron.corpora.reading.chunks import Span, cut, read_documents, read_span
from tst_megatron.corpora.reading.documents import ReadOptions
from tst_megatron.corpora.reading.fields import parse_where
from tst_megatron.corpora.reading.inputs import find_inputs
from tst_megatron.errors import UserError

GOOD = b'{"text": "good"}'
RECORDS = [
    (b'{"text": "a\xff"}', "not valid UTF-8", "byte 12 of the record"),
    (b'{"text": "a"', "not valid JSON", "unexpected end of data, character 13"),
    (b'{"text": "\\ud800"}', "not valid JSON", "no low surrogate in string, character 11"),
    (b'{"text": NaN}', "not valid JSON", "unexpected character, expected a JSON value, character"),
    (b'["text"]', "not a JSON object but a list", ""),
    (b'"text"', "not a JSON object but a string", ""),
    (b'{"texts": "a"}', 'no field "text"', ""),
    (b'{"text": 3}', 'field "text" is a number, not a string', ""),
    (b'{"text": 3.5}', 'field "text" is a number, not a string', ""),
    (b'{"text": true}', 'field "text" is a boolean, not a string', ""),
    (b'{"text": null}', 'field "text" is null, not a string', ""),
    (b'{"text": ["a"]}', 'field "text" is a list, not a string', ""),
    (b'{"text": {"a": 1}}', 'field "text" is an object, not a string', ""),
    (b'{"text": ""}', "the document is empty", ""),
    (b'{"text": "' + b"\xc3\xbc" * 51 + b'"}', "the document is longer than 100 bytes", ""),
]
SMALL = ReadOptions(max_document_bytes=100)


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def check_reasons(read: Read) -> None:
    assert read.documents == ["good"] * (len(RECORDS) + 1)
    assert read.numbers == [2 * i + 1 for i in range(len(RECORDS) + 1)]
    assert [one[0] for one in read.bad] == [2 * i + 2 for i in range(len(RECORDS))]
    for (_, reason, detail), (_, expected, expected_detail) in zip(read.bad, RECORDS, strict=True):
        assert reason == expected
        assert detail.startswith(expected_detail)


@pytest.mark.parametrize("target", [1 << 20, 50])
def test_bad_lines(tmp_path, target):
    lines = [GOOD] + [line for content, *_ in RECORDS for line in (content, GOOD)]
    check_reasons(Read([written(tmp_path, "a.jsonl", b"\n".join(lines))], SMALL, target))


def test_bad_elements(tmp_path):
    # One that does not end ends the array, too: it has its own test.
    whole = [one for one in RECORDS if one[1:2] != ("not valid JSON",) or b"}" in one[0]]
    elements = [GOOD] + [element for content, *_ in whole for element in (content, GOOD)]
    read = Read([written(tmp_path, "a.json", b"[" + b", ".join(elements) + b"]")], SMALL)
    assert [one[:2] for one in read.bad] == [(2 * i + 2, one[1]) for i, one in enumerate(whole)]
    assert read.documents == ["good"] * (len(whole) + 1)
    assert read.broken == []


@pytest.mark.parametrize(
    ("array", "documents", "bad", "broken"),
    [
        (b'[{"text": "a"}, {"text": "b"}', ["a"], [], (2, "the JSON array ends early", "")),
        (b'[{"text": "a"}, {"text": "b', ["a"], [], (2, "the JSON array ends early", "")),
        (b'[{"text": "a"}] x', ["a"], [], (2, "something stands after the JSON array", "")),
        (b'[{"text": "a"}]]', ["a"], [], (2, "something stands after the JSON array", "")),
        (b'[{"text": "a"},]', ["a"], [2], None),
        (b'[{"text": "a"},,{"text": "b"}]', ["a", "b"], [2], None),
        (b'[{"text": "a"} {"text": "b"}, {"text": "c"}]', ["c"], [1], None),
        (b'[{"text": "a", {"text": "b"}, {"text": "c"}]', [], [], "the JSON array ends early"),
    ],
)
@pytest.mark.parametrize("block", [1, 1 << 20])
def test_broken_arrays(tmp_path, monkeypatch, array, documents, bad, broken, block):
    monkeypatch.setattr("tst_megatron.corpora.reading.json_files.BLOCK_BYTES", block)
    read = Read([written(tmp_path, "a.json", array)])
    assert read.documents == documents
    assert [one[0] for one in read.bad] == bad
    if isinstance(broken, str):
        assert read.broken[0][1] == broken
    else:
        assert read.broken == ([broken] if broken else [])


def test_not_an_array(tmp_path):
    read = Read([written(tmp_path, "a.json", GOOD)], format="json")
    assert read.broken == [(1, "not a JSON array", "")]


@pytest.mark.parametrize("format", ["parquet", "arrow"])
def test_bad_rows(tmp_path, format):
    text = pa.array([b"good", None, b"", b"a\xff", b"x" * 101, b"good", b"bad score", b"no"])
    score = pa.array([3, 3, 3, 3, 3, 3, None, 1])
    table = pa.table({"text": text.view(pa.string()), "score": score})
    path = tmp_path / f"a.{format}"
    if format == "parquet":
        pq.write_table(table, path, row_group_size=4)
    else:
        with pa.ipc.new_stream(str(path), table.schema) as writer:
            writer.write_table(table)
    options = ReadOptions(max_document_bytes=100, where=parse_where("score >= 2"))
    read = Read([path], options, target_bytes=1)
    assert read.documents == ["good", "good"]
    assert read.numbers == [1, 6]
    assert [one[:2] for one in read.bad] == [
        (2, 'field "text" is null, not a string'),
        (3, "the document is empty"),
        (4, "not valid UTF-8"),
        (5, "the document is longer than 100 bytes"),
        (7, "--where score >= 2 cannot be said"),
    ]
    assert read.bad[2][2] == "byte 2 of the record"
    assert sum(batch.filtered for batch in read.batches) == 1


@pytest.mark.parametrize("format", ["parquet", "arrow"])
def test_a_filter_by_a_column_that_is_not_there(tmp_path, format):
    content = parquet(["a", "b"]) if format == "parquet" else arrow_stream(["a", "b"])
    path = written(tmp_path, f"a.{format}", content)
    read = Read([path], ReadOptions(where=parse_where("id == 1 or score > 2")))
    assert (read.documents, read.bad) == (["b"], [(1, 'no field "score"', "")])


@pytest.mark.parametrize(
    ("field", "reason", "detail"),
    [
        ("texts", 'no column "texts"', ""),
        ("text.more", 'no column "text.more"', ""),
        ("id", 'column "id" is int64, not strings', ""),
    ],
)
@pytest.mark.parametrize("format", ["parquet", "arrow", "feather", "parquet.zst"])
def test_a_table_without_the_column(tmp_path, field, reason, detail, format):
    documents = ["a", "b", "c"]
    contents = {
        "parquet": parquet(documents),
        "arrow": arrow_stream(documents),
        "feather": arrow_file(documents),
        "parquet.zst": zstandard.compress(parquet(documents)),
    }
    path = written(tmp_path, f"a.{format}", contents[format])
    read = Read([path], ReadOptions(field=field), scratch=tmp_path)
    assert (read.broken, read.documents) == ([(0, reason, detail)], [])


def test_a_dotted_field_says_which_part_is_missing(tmp_path):
    lines = [b'{"meta": {"text": "a"}}', b'{"meta": {}}', b'{"meta": "a"}', b"{}"]
    path = written(tmp_path, "a.jsonl", b"\n".join(lines))
    read = Read([path], ReadOptions(field="meta.text"))
    reason = 'no field "meta.text"'
    assert read.bad == [
        (2, reason, '"meta" has no "text"'),
        (3, reason, '"meta" is a string'),
        (4, reason, ""),
    ]


def test_bad_text(tmp_path):
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "long.txt").write_bytes(b"x" * 101)
    (tmp_path / "utf8.txt").write_bytes(b"ab\xff")
    read = Read([tmp_path], SMALL)
    assert read.bad == [
        (1, "the file is empty", ""),
        (1, "the document is longer than 100 bytes", ""),
        (1, "not valid UTF-8", "byte 3 of the record"),
    ]
    assert read.read == [0, 101, 3]


def test_text_has_no_fields_to_filter_by(tmp_path):
    path = written(tmp_path, "a.txt", b"x")
    with pytest.raises(UserError, match=r"--where a > 1 needs fields, and .* is plain text"):
        cut(find_inputs([str(path)]).files, ReadOptions(where=parse_where("a > 1")), 1)


@pytest.mark.parametrize("target", [1 << 30, 1000])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_an_enormous_line_is_not_held(tmp_path, monkeypatch, target, end):
    monkeypatch.setattr(documents_module, "_SPACE_OF_OTHER_FIELDS", 0)
    monkeypatch.setattr("tst_megatron.corpora.reading.json_files.BLOCK_BYTES", 64)
    monkeypatch.setattr("tst_megatron.corpora.reading.json_files._END_BLOCK_BYTES", 64)
    enormous = b'{"text": "' + b"x" * 5000 + b'"}'
    lines = [GOOD, enormous, GOOD, enormous, enormous, GOOD, enormous]
    read = Read([written(tmp_path, "a.jsonl", b"\n".join(lines) + end)], SMALL, target)
    assert read.documents == ["good"] * 3
    reason = "the line is longer than 200 bytes"
    assert read.bad == [(number, reason, "") for number in (2, 4, 5, 7)]


@pytest.mark.parametrize("block", [64, 1 << 20])
def test_an_enormous_element_is_not_held(tmp_path, monkeypatch, block):
    monkeypatch.setattr(documents_module, "_SPACE_OF_OTHER_FIELDS", 0)
    monkeypatch.setattr("tst_megatron.corpora.reading.json_files.BLOCK_BYTES", block)
    enormous = b'{"text": "' + b'x\\"]' * 1000 + b'"}'
    elements = [GOOD, enormous, GOOD, enormous]
    read = Read([written(tmp_path, "a.json", b"[" + b",\n".join(elements) + b"]")], SMALL)
    assert read.documents == ["good"] * 2
    reason = "the element is longer than 200 bytes"
    assert (read.bad, read.broken) == ([(2, reason, ""), (4, reason, "")], [])


# What random words become when they are compressed cannot be read past where it is cut.
WORDS = [random.Random(i).randbytes(20).hex() for i in range(40_000)]
COMPRESS = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.compress,
    "lz4": lz4,
}


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("format", ["jsonl", "json", "arrow", "feather", "txt"])
def test_compressed_files_that_end_early_give_what_is_there(tmp_path, compression, format):
    writers = {
        "jsonl": jsonl,
        "json": lambda words: json.dumps([{"text": word} for word in words]).encode(),
        "arrow": arrow_stream,
        "feather": arrow_file,
        "txt": lambda words: "\n\n".join(words).encode(),
    }
    words = WORDS[:4000] if format in ("arrow", "feather") else WORDS
    content = COMPRESS[compression](writers[format](words))
    whole = len(content) * 7 // 8
    path = written(tmp_path, f"a.{format}.{compression}", content[:whole])
    read = Read([path], ReadOptions(text_documents="blank-line"))
    assert read.documents == words[: len(read.documents)]
    # Of bz2 and xz whole blocks are unpacked, and these are of one or few.
    if compression in ("gz", "zst", "lz4"):
        assert len(read.documents) > len(words) // 3
    record = len(read.documents) + 1
    if format == "txt":
        record = 2 * len(read.documents) + 1
    assert read.broken == [(record, f"the .{compression} data end early", "")]
    with pytest.raises(UserError, match=f"record {record:,}: the .{compression} data end early"):
        list(read_documents(read.files, ReadOptions(text_documents="blank-line")))


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("kept", [0, 1, 5, -1, -4])
def test_compressed_files_of_a_few_bytes_or_almost_all(tmp_path, compression, kept):
    content = COMPRESS[compression](jsonl(["a", "b"]))[:kept]
    path = written(tmp_path, f"a.jsonl.{compression}", content)
    read = Read([path])
    [(record, reason, _)] = read.broken
    assert record == len(read.documents) + 1
    # gzip takes half of its magic for that of something else.
    of_magic = [f"the .{compression} data are damaged"] * (kept == 1)
    assert reason in [f"the .{compression} data end early", *of_magic]


@pytest.mark.parametrize("compression", COMPRESS)
def test_damaged_compressed_files(tmp_path, compression):
    checked = {"zst": zstandard.ZstdCompressor(write_checksum=True).compress}
    content = bytearray((COMPRESS | checked)[compression](jsonl(WORDS)))
    middle = len(content) // 2
    content[middle : middle + 100] = bytes(100)
    read = Read([written(tmp_path, f"a.jsonl.{compression}", bytes(content))])
    [(_, reason, detail)] = read.broken
    assert reason in (f"the .{compression} data are damaged", f"the .{compression} data end early")
    assert "\n" not in detail


def test_a_compressed_file_that_is_none(tmp_path):
    for compression in COMPRESS:
        path = written(tmp_path, f"a.jsonl.{compression}", GOOD * 10)
        [(record, reason, _)] = Read([path]).broken
        assert (record, reason) == (1, f"the .{compression} data are damaged")


@pytest.mark.parametrize("kept", [0, 3, 100, -1, -8])
def test_a_parquet_file_without_a_footer(tmp_path, kept):
    path = written(tmp_path, "a.parquet", parquet(WORDS[:100])[:kept])
    good = written(tmp_path, "b.parquet", parquet(["a"]))
    files = find_inputs([str(path), str(good)]).files
    spans = [one for chunk in cut(files, ReadOptions(), 1) for one in chunk.spans]
    assert spans == [Span(0, 0, 0), Span(1, 0, 1)]
    with pytest.raises(BrokenFile) as caught:
        list(read_span(files, spans[0], ReadOptions(), tmp_path))
    assert (caught.value.record, caught.value.reason) == (0, "not Parquet that can be read")
    assert caught.value.detail


def test_a_parquet_file_damaged_in_its_middle(tmp_path):
    content = bytearray(parquet(WORDS[:40], compression="none", use_dictionary=False))
    with pq.ParquetFile(io.BytesIO(content)) as file:
        page = file.metadata.row_group(10).column(1).data_page_offset
    content[page : page + 40] = b"\xff" * 40
    path = written(tmp_path, "a.parquet", bytes(content))
    read = Read([path])
    assert read.documents == WORDS[:20]
    assert [one[:2] for one in read.broken] == [(21, "not Parquet that can be read")]
    # Other spans of the file are none the worse.
    assert Read([path], target_bytes=1).documents == WORDS[:20] + WORDS[22:40]


@pytest.mark.parametrize("write", [arrow_stream, arrow_file])
def test_an_arrow_file_that_ends_early_gives_what_is_there(tmp_path, write):
    content = write(WORDS[:40])
    path = written(tmp_path, "a.arrow", content[: len(content) // 2])
    read = Read([path])
    assert 4 < len(read.documents) < 36
    assert read.documents == WORDS[: len(read.documents)]
    [(record, reason, _)] = read.broken
    assert record == len(read.documents) + 1
    assert reason in ("not Arrow that can be read", "the Arrow file ends early")


@pytest.mark.parametrize("kept", [-1, -30])
@pytest.mark.parametrize("name", ["a.feather", "a.feather.gz"])
def test_an_arrow_file_without_its_footer(tmp_path, kept, name):
    content = arrow_file(["a", "b"])[:kept]
    path = written(tmp_path, name, gzip.compress(content) if name.endswith("gz") else content)
    read = Read([path])
    assert read.documents == ["a", "b"]
    assert read.broken == [(3, "the Arrow file ends early", "")]


def test_damaged_offsets_of_an_arrow_file_are_noticed(tmp_path):
    table = pa.table({"text": ["abcdef", "gh"]})
    content = bytearray(arrow_stream(["abcdef", "gh"]))
    offsets = table["text"].chunk(0).buffers()[1].to_pybytes()[:12]
    where = bytes(content).index(offsets)
    content[where + 4 : where + 8] = (1 << 30).to_bytes(4, "little")
    [(record, reason, _)] = Read([written(tmp_path, "a.arrow", bytes(content))]).broken
    assert (record, reason) == (1, "not Arrow that can be read")


@pytest.mark.parametrize("name", ["a.arrow", "a.feather"])
@pytest.mark.parametrize("content", [b"", b"FEA1", b"nothing like it" * 10])
def test_not_arrow(tmp_path, name, content):
    [(_, reason, _)] = Read([written(tmp_path, name, content)]).broken
    assert reason == "not Arrow that can be read"


def test_a_file_that_has_vanished(tmp_path):
    for name, content in (("a.jsonl", GOOD), ("b.parquet", parquet(["a"]))):
        path = written(tmp_path, name, content)
        files = find_inputs([str(path)]).files
        path.unlink()
        with pytest.raises(UserError, match=f"the input {path} cannot be read: No such file"):
            list(read_span(files, Span(0, 0, 1), ReadOptions(), tmp_path))
    with pytest.raises(UserError, match="cannot be read: No such file"):
        cut(files, ReadOptions(), 1)


def test_no_room_for_a_copy(tmp_path):
    path = written(tmp_path, "a.parquet.gz", gzip.compress(parquet(["a"])))
    files = find_inputs([str(path)]).files
    with pytest.raises(UserError, match="cannot be unpacked into /nowhere: No such file"):
        list(read_span(files, Span(0, 0, 1), ReadOptions(), Path("/nowhere")))
