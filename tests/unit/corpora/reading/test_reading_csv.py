"""CSV and TSV: every row is one document, or is named; none is merged into another in silence."""

import codecs
import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from read_files import Read, lz4

from tst_megatron.corpora.reading import csv_files
from tst_megatron.corpora.reading.cells import Cell
from tst_megatron.corpora.reading.documents import ReadOptions
from tst_megatron.corpora.reading.fields import parse_where


def read(folder: Path, content: bytes | str, name: str = "a.csv", **options: object) -> Read:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Read([file], ReadOptions(**options))  # type: ignore[arg-type]


def test_cells_keep_line_ends_quotes_and_spaces(tmp_path: Path) -> None:
    rows = ('"a\nb, ""quoted""\r\nc", 1', "", ' plain \u2028 "x" ,2', '"",3', "NA,4", "last,5")
    content = "\r\n".join(("\ufefftext,id", *rows))
    found = read(tmp_path, content)
    assert found.documents == ['a\nb, "quoted"\r\nc', ' plain \u2028 "x" ', "NA", "last"]
    assert found.numbers == [1, 3, 5, 6]
    assert found.bad == [(4, "the document is empty", "")]
    assert found.read == [len(content.encode())]


def test_tabs_separate_and_commas_do_not(tmp_path: Path) -> None:
    found = read(tmp_path, 'id\ttext\n1\ta, b\n2\t"c ""d"""\n', "a.tsv")
    assert found.documents == ["a, b", 'c "d"']


@pytest.mark.parametrize("rows", ['"Hello\t1\nfoo\t2\nworld"\t3\n', '"b\tc"\t2\nd\t3\n'])
def test_what_only_some_would_take_for_one_cell_of_tsv_ends_the_reading(
    tmp_path: Path, rows: str
) -> None:
    found = read(tmp_path, "text\tid\na\t0\n" + rows, "a.tsv")
    assert found.documents == ["a"]
    [(record, reason, detail)] = found.broken
    assert (record, reason) == (2, "not TSV that can be read")
    assert detail.startswith("quotes around a tab or a line end, which to some is several cells")


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
@pytest.mark.parametrize("batch", [50, 8 << 20])
def test_whatever_pieces_it_is_read_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, batch: int
) -> None:
    monkeypatch.setattr(csv_files, "_BLOCK_BYTES", block)
    monkeypatch.setattr(csv_files, "BATCH_CHARACTERS", batch)
    rng = random.Random(0)
    texts = ["x" + "".join(rng.choices('ab "\n\r,\té漢', k=rng.randint(0, 30))) for _ in range(60)]
    content = io.StringIO()
    csv.writer(content).writerows([("n", "text", "z"), *((i, t, "") for i, t in enumerate(texts))])
    plain = content.getvalue().encode()
    for name, packed in (("a.csv", plain), ("a.csv.lz4", lz4(plain))):
        found = read(tmp_path, packed, name)
        assert (found.documents, found.bad, found.broken) == (texts, [], [])
        assert found.read == [len(packed)]


def test_bad_rows_are_bad_alone(tmp_path: Path) -> None:
    content = b'id,text\n1,good\n2\n"3\n",bad\xff\n4,a,b\n\n5,good\n6,' + b"x" * 101 + b"\n7,good"
    found = read(tmp_path, content, max_document_bytes=100)
    assert found.documents == ["good"] * 3
    assert found.numbers == [1, 6, 8]
    cells = "the row has not as many cells as the header"
    assert found.bad == [
        (2, cells, "1, not 2, on line 3"),
        (3, "not valid UTF-8", "byte 4 of the record"),
        (4, cells, "3, not 2, on line 6"),
        (7, "the document is longer than 100 bytes", ""),
    ]
    assert found.broken == []


@pytest.mark.parametrize(
    ("rows", "documents", "detail"),
    [
        # pyarrow makes one document of these three rows, and of the next one "he said".
        ('1,"open\n2,b\n3,c\n', [], "unexpected end of data, in the row that ends on line 4"),
        (
            '1,a\n2,"he" said\n3,c\n',
            ["a"],
            "',' expected after '\"', in the row that ends on line 3",
        ),
        ('1,a\n2,"he \\"said\\" so"\n', ["a"], "',' expected after '\"', in the row that"),
        ("1,a\rb\n", [], "a carriage return outside of quotes, where a line ends with a line feed"),
        ("1,a\r2,b\r", [], "a carriage return outside of quotes"),
    ],
)
def test_quotes_that_do_not_fit_end_the_reading(
    tmp_path: Path, rows: str, documents: list[str], detail: str
) -> None:
    found = read(tmp_path, "id,text\n" + rows)
    assert found.documents == documents
    [(record, reason, said)] = found.broken
    assert (record, reason) == (len(documents) + 1, "not CSV that can be read")
    assert said.startswith(detail) or detail in said


def test_a_row_without_end_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "_BLOCK_BYTES", 64)
    monkeypatch.setattr(ReadOptions, "max_record_bytes", 200)
    for rest in ('"' + "x\n" * 5000, "x" * 10_000):
        [(record, reason, _)] = read(tmp_path, "text\na\n" + rest).broken
        assert (record, reason) == (2, "not CSV that can be read")


@pytest.mark.parametrize(
    ("content", "broken"),
    [
        ("id,body\n1,a\n", (0, 'no column "text"', "")),
        ("id;body\n1;a\n", (0, 'no column "text"', "")),
        (
            "id;text\n1;a\n",
            (0, 'the header has ";" between its columns, not ","', 'write it with ","'),
        ),
        (
            "id\ttext\n1\ta\n",
            (0, 'the header has tabs between its columns, not ","', "read it with --format tsv"),
        ),
        ("text,text\n1,a\n", (0, 'the header has the column "text" twice', "")),
        ("text,n,n\na,1,2\n", (0, 'the header has the column "n" twice', "")),
        ("text\r\na\r\n".encode("utf-16"), (0, "the file is in UTF-16: write it in UTF-8", "")),
        (codecs.BOM_UTF16_BE + b"\0x", (0, "the file is in UTF-16: write it in UTF-8", "")),
    ],
)
def test_a_header_without_the_column(
    tmp_path: Path, content: str | bytes, broken: tuple[int, str, str]
) -> None:
    assert read(tmp_path, content, where=parse_where("n == 1 or True")).broken == [broken]


@pytest.mark.parametrize("content", ["", "\n\n", "id,text\n", "\ufeff"])
def test_nothing_in_it(tmp_path: Path, content: str) -> None:
    found = read(tmp_path, content)
    assert (found.documents, found.bad, found.broken) == ([], [], [])


def test_a_row_above_the_header_may_be_blank(tmp_path: Path) -> None:
    assert read(tmp_path, "\n\ntext\na\n").documents == ["a"]


ROWS = [
    {"text": "a", "score": "9", "lang": "en", "good": "True", "zip": "01234"},
    {"text": "b", "score": "10", "lang": "de", "good": "false", "zip": "98765"},
    {"text": "c", "score": "2.5e1", "lang": "en", "good": "1", "zip": "7"},
    {"text": "d", "score": "", "lang": "", "good": "", "zip": ""},
]


@pytest.mark.parametrize(
    ("where", "documents"),
    [
        ("score is not None and score >= 10", ["b", "c"]),
        ("score is not None and 9 < score <= 10", ["b"]),
        ("score is None", ["d"]),
        ("score in (9, 25)", ["a", "c"]),
        ("score == '9' or score == 10", ["a", "b"]),
        ("zip == '98765' or zip == '01234'", ["a", "b"]),
        ("zip == 98765 or zip == 1234", ["b"]),
        ("lang in ('en',)", ["a", "c"]),
        ("lang != 'en'", ["b", "d"]),
        ("lang is not None and len(lang) == 2 and 'n' in lang", ["a", "c"]),
        ("good is not None and good", ["a", "c"]),
        ("good == True", ["a", "c"]),
        ("good != True", ["b", "d"]),
        ("lang in {'en'}", ["a", "c"]),
        ("score is not None and score * 2 + 1 > 19", ["b", "c"]),
        ("text >= 'a' and score is not None and -score > -10", ["a"]),
    ],
)
def test_filters(tmp_path: Path, where: str, documents: list[str]) -> None:
    content = io.StringIO()
    writer = csv.DictWriter(content, list(ROWS[0]))
    writer.writeheader()
    writer.writerows(ROWS)
    found = read(tmp_path, content.getvalue(), where=parse_where(where))
    assert (found.documents, found.bad) == (documents, [])
    assert sum(batch.filtered for batch in found.batches) == len(ROWS) - len(documents)


@pytest.mark.parametrize(
    "where",
    [
        *("lang > 3", "lang", "lang == True", "lang > score", "lang + score == 3", "lang * 2 == 3"),
        *("len({lang}) == 1", "nope == 1"),
    ],
)
def test_what_cannot_be_said_of_a_cell_is_said(tmp_path: Path, where: str) -> None:
    found = read(tmp_path, "text,lang,score\na,en,3\n", where=parse_where(where))
    [(record, reason, _)] = found.bad
    assert (record, found.documents) == (1, [])
    assert "cannot be said" in reason or 'no field "nope"' in reason


def test_a_cell_is_its_text_otherwise() -> None:
    assert json.dumps(Cell("1.0")) == '"1.0"'
    assert Cell("1.0") == Cell("1") != "1.0"[:1] + "x"
    assert Cell("nan") != 0
    assert Cell("9") < Cell("10")
    assert Cell("9") > "10"


_NUMBERS = st.one_of(st.integers(-12, 12), st.sampled_from([0.5, -2.5, 1e-7, 1e20, 2.0, 2**60 + 1]))
_TEXTS = st.sampled_from(["a", "b", "ab", "Zwölf", "01", "+1", "1.", "1_0", " 1", "nan"])
_ROWS = st.fixed_dictionaries(
    {
        "n": st.none() | _NUMBERS,
        "m": st.none() | _NUMBERS,
        "b": st.none() | st.booleans(),
        "c": st.none() | st.booleans(),
        "t": st.none() | _TEXTS,
        "u": st.none() | _TEXTS,
    }
)


def _joined(parts: st.SearchStrategy[str], *operators: str) -> st.SearchStrategy[str]:
    pairs = st.tuples(parts, st.sampled_from(operators), parts)
    return pairs.map(lambda pair: f"({pair[0]} {pair[1]} {pair[2]})")


_ORDERS = ("<", "<=", ">", ">=")
_SAYS_NUMBER = st.sampled_from(["n", "m", "b"]) | _NUMBERS.map(repr)
_SAYS_TEXT = st.sampled_from(["t", "u"]) | _TEXTS.map(repr)
_SUM = _joined(_SAYS_NUMBER, "+", "-", "*", "/") | _SAYS_NUMBER.map("-{}".format)
_NUMBER = _SAYS_NUMBER | _SUM | _joined(_SUM, "+", "-", "*", "/")
_TEXT = _SAYS_TEXT | _joined(_SAYS_TEXT, "+")
_CONDITION = st.one_of(
    _joined(_NUMBER, *_ORDERS, "==", "!="),
    _joined(_TEXT, *_ORDERS, "==", "!=", "in", "not in"),
    _joined(_SAYS_NUMBER | st.sampled_from(["True", "False"]), "==", "!=", "<", "+"),
    # What has no order, no sum and no product, and is not equal.
    _joined(st.sampled_from(["n", "t", "b", "u"]), *_ORDERS, "==", "!=", "in", "-", "*", "/"),
    st.tuples(_NUMBER, st.lists(_NUMBERS, min_size=1)).map(
        lambda one: f"{one[0]} in {{{str(one[1])[1:-1]}}}"
    ),
    st.tuples(_TEXT, st.lists(_TEXTS, min_size=1)).map(
        lambda one: f"{one[0]} not in {{{str(one[1])[1:-1]}}}"
    ),
    st.sampled_from(["b", "not c", "n", "t is None", "u is not None", "len(t) > 1"]),
)
_FILTERS = st.recursive(
    _CONDITION, lambda below: _joined(below, "and", "or") | below.map("not ({})".format)
)


@settings(deadline=None)
@given(st.lists(_ROWS, min_size=1, max_size=8), _FILTERS, st.sampled_from([str.lower, str.title]))
def test_a_filter_keeps_what_it_keeps_of_the_same_records_in_json(
    rows: list[dict[str, object]], where: str, spelled: Callable[[str], str]
) -> None:
    records = [{"text": f"row {i}"} | row for i, row in enumerate(rows)]
    cells = [
        {
            name: value if isinstance(value, str) else spelled(json.dumps(value))
            for name, value in record.items()
            if value is not None
        }
        for record in records
    ]
    content = io.StringIO()
    writer = csv.DictWriter(content, list(records[0]))
    writer.writeheader()
    writer.writerows(cells)
    options = {"where": parse_where(f"{where} and text is not None")}
    with TemporaryDirectory() as folder:
        of_csv = read(Path(folder), content.getvalue(), **options)
        lines = "".join(json.dumps(record) + "\n" for record in records)
        of_json = read(Path(folder), lines, "a.jsonl", **options)
    assert of_csv.documents == of_json.documents
    assert [number for number, *_ in of_csv.bad] == [number for number, *_ in of_json.bad]


def test_ids(tmp_path: Path) -> None:
    found = read(tmp_path, "ids\n1 2 3\n7\n", field="ids", reads="ids")
    assert found.documents == ["1 2 3", "7"]
