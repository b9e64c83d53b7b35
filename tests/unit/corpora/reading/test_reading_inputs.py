"""Which files are read, in which order, and what they are taken for."""

import os
import pickle
from pathlib import Path

import pytest

from tst_megatron.corpora.reading.inputs import find_inputs, kinds_in_words
from tst_megatron.errors import UserError


@pytest.fixture
def folder(tmp_path):
    names = (
        "b.jsonl a/z.parquet a/b/c.JSONL.gz a-b.txt .hidden.txt .git/x.py notes.unknown _SUCCESS "
        "deep/er/x.ndjson.zst deep/y.arrow"
    )
    for name in names.split():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}")
    return tmp_path


def found(folder, *specs, format=None):
    files = find_inputs([str(folder / spec) for spec in specs], format).files
    return [file.path.relative_to(folder).as_posix() for file in files]


def test_a_folder_gives_its_known_files_in_the_order_of_their_paths(folder):
    assert found(folder, "") == [
        "a-b.txt",
        "a/b/c.JSONL.gz",
        "a/z.parquet",
        "b.jsonl",
        "deep/er/x.ndjson.zst",
        "deep/y.arrow",
    ]


def test_files_folders_and_globs_keep_the_order_they_are_named_in(folder):
    assert found(folder, "deep", "b.jsonl", "a/**/*.gz", "a*.txt") == [
        "deep/er/x.ndjson.zst",
        "deep/y.arrow",
        "b.jsonl",
        "a/b/c.JSONL.gz",
        "a-b.txt",
    ]
    assert found(folder, "a/**") == ["a/b/c.JSONL.gz", "a/z.parquet"]
    assert found(folder, "*") == ["a-b.txt", "b.jsonl"]


def test_names_with_brackets_are_files_first(folder):
    (folder / "x[1].txt").write_text("x")
    assert found(folder, "x[1].txt") == ["x[1].txt"]


def test_what_a_file_is(folder):
    one = find_inputs([str(folder / "a/b/c.JSONL.gz")]).files[0]
    status = one.path.stat()
    assert (one.format, one.compression) == ("jsonl", "gz")
    assert (one.size, one.mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert pickle.loads(pickle.dumps(one)) == one


@pytest.mark.parametrize(
    ("name", "format", "compression"),
    [
        ("a.ndjson", "jsonl", None),
        ("a.pq", "parquet", None),
        ("a.ipc.xz", "arrow", "xz"),
        ("a.feather", "arrow", None),
        ("a.b.md.bz2", "text", "bz2"),
        ("a.rs", "text", None),
        ("a.html.zstd", "text", "zst"),
        ("a.csv.gz", "csv", "gz"),
        ("a.TSV", "tsv", None),
        ("a.jsonl.lz4", "jsonl", "lz4"),
    ],
)
def test_formats_by_name(tmp_path, name, format, compression):
    (tmp_path / name).write_bytes(b"x")
    file = find_inputs([str(tmp_path / name)]).files[0]
    assert (file.format, file.compression) == (format, compression)


def test_a_given_format_is_that_of_all_files(folder):
    files = find_inputs([str(folder), str(folder / "_SUCCESS")], "text").files
    assert {file.format for file in files} == {"text"}
    assert found(folder, "", format="text") == [
        "a-b.txt",
        "a/b/c.JSONL.gz",
        "a/z.parquet",
        "b.jsonl",
        "deep/er/x.ndjson.zst",
        "deep/y.arrow",
        "notes.unknown",
    ]


def test_a_link_is_known_by_its_own_name(folder):
    (folder / "blob").write_bytes(b"{}")
    (folder / "link.jsonl").symlink_to(folder / "blob")
    assert found(folder, "link.jsonl") == ["link.jsonl"]


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["missing.jsonl"], "is missing: there is no such file or folder"),
        (["*.parquet"], "matches no file"),
        (
            ["notes.unknown"],
            "say what it is with --format (jsonl, json, csv, tsv, parquet, arrow, text)",
        ),
        (
            ["empty"],
            "holds no .jsonl, .json, .csv, .tsv, .parquet, .arrow or .txt file: give --for",
        ),
        (["foreign"], "or .txt file but 2 .dat, 1 without an ending: give --format"),
        (["foreign/*"], "or .txt file but 2 .dat, 1 without an ending: write"),
        (["deep/[e]*"], "or .txt file but 1 folders: write"),
        (["b.jsonl", "b*"], "is named twice, by"),
        (["b.jsonl", "deep/../b.jsonl"], "name it once"),
        (["pipe"], "is neither a file nor a folder"),
        (["dangling.jsonl"], "is missing"),
        (["x" * 300], "cannot be read: File name too long"),
    ],
)
def test_refusals(folder, specs, message):
    (folder / "empty").mkdir()
    (folder / "foreign").mkdir()
    for name in ("a.dat", "b.dat", "_SUCCESS"):
        (folder / "foreign" / name).touch()
    os.mkfifo(folder / "pipe")
    (folder / "dangling.jsonl").symlink_to(folder / "nowhere")
    with pytest.raises(UserError) as caught:
        found(folder, *specs)
    assert message in str(caught.value)
    assert str(folder / specs[-1]) in str(caught.value)


@pytest.mark.parametrize(
    ("glob", "named", "says"),
    [
        ("n*", "notes.unknown", "is none of .jsonl"),
        ("**/*.unknown", "notes.unknown", "say what it is with --format"),
        ("*.jsonl", "dangling.jsonl", "is missing: there is no such file"),
        ("pip*", "pipe", "is neither a file nor a folder"),
    ],
)
def test_what_a_glob_names_is_refused_as_if_named_alone(folder, glob, named, says):
    os.mkfifo(folder / "pipe")
    (folder / "dangling.jsonl").symlink_to(folder / "nowhere")
    for spec in (glob, named):
        with pytest.raises(UserError, match=says) as caught:
            found(folder, spec)
        assert f"the input {folder / named} " in str(caught.value)


def test_a_link_to_nothing_is_not_left_out_of_a_folder(folder):
    (folder / "deep/dangling.jsonl").symlink_to(folder / "nowhere")
    for spec in ("deep", "deep/*"):
        with pytest.raises(UserError, match=r"dangling\.jsonl cannot be read: No such file"):
            found(folder, spec)


def left_out(folder, *specs, format=None):
    inputs = find_inputs([str(folder / spec) for spec in specs], format)
    return [(Path(one.spec).relative_to(folder).as_posix(), one.kinds) for one in inputs.left_out]


def test_what_folders_and_globs_leave_out_is_counted_by_kind(folder):
    for name in ("x.CSV.br", "y.csv.br", "deep/log.1", "deep/log.2", "deep/raw.gz", "a/.cache"):
        (folder / name).write_bytes(b"")
    (folder / "deep/linked").symlink_to(folder / "a")
    os.mkfifo(folder / "deep/pipe.txt")
    kinds = {
        **{".br": 2, ".gz": 1, ".unknown": 1, "ending in a number": 2, "hidden": 3},
        **{"links to folders": 1, "pipes, sockets and devices": 1, "without an ending": 1},
    }
    assert left_out(folder, "") == [(".", kinds)]
    assert left_out(folder, "*") == [
        ("*", {".br": 2, ".unknown": 1, "folders": 2, "without an ending": 1})
    ]
    assert left_out(folder, "a/**", "b*", "a-b.txt") == []
    assert left_out(folder, "deep/er", "a/b") == []
    only = {"beginning with _": 1, "folders": 2}
    assert left_out(folder, "*", format="text") == [("*", only)]


def test_the_kinds_in_words():
    kinds = {".a": 1, "hidden": 1200, ".b": 2}
    assert kinds_in_words(kinds) == "1,200 hidden, 2 .b, 1 .a"
    many = {f".{number}x": 1 for number in range(20)}
    assert kinds_in_words(many).endswith("1 .16x, 12 of other kinds")


def test_an_unknown_format_is_refused(folder):
    with pytest.raises(UserError, match="--format docx is not one of jsonl, json, csv"):
        find_inputs([str(folder)], "docx")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(folder):
    (folder / "b.jsonl").chmod(0)
    with pytest.raises(UserError, match="cannot be read: Permission denied"):
        found(folder, "b.jsonl")
