"""Megatron's data flags, read by us and by Megatron."""

import json
from pathlib import Path

import pytest
from counted_corpora import parse, write_corpus
from hypothesis import given
from hypothesis import strategies as st
from megatron.core.datasets.blended_megatron_dataset_config import (
    convert_split_vector_to_split_matrix,
    parse_and_normalize_split,
)
from megatron.core.datasets.utils import normalize
from megatron.training.utils import get_blend_and_blend_per_split

from tst_megatron.corpora.sources import (
    Source,
    blends,
    check_sources,
    normalized,
    sources_of_split,
    split_bounds,
)
from tst_megatron.errors import UserError

SHARE = st.one_of(st.integers(0, 1000), st.floats(0, 1000).map(lambda x: round(x, 3)))


@given(st.lists(SHARE, min_size=1, max_size=3).filter(any))
def test_splits_are_megatrons(shares: list[float]) -> None:
    text = ",".join(map(str, shares))
    assert split_bounds(text) == convert_split_vector_to_split_matrix(
        parse_and_normalize_split(text)
    )


@given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=50))
def test_weights_are_megatrons(weights: list[float]) -> None:
    assert normalized(weights) == normalize(weights)


@pytest.mark.parametrize(
    "flags",
    [
        "",
        "--data-path a",
        "--data-path a b",
        "--data-path a b c",
        "--data-path 0.3 a 70 b",
        "--data-path 1 a",
        "--train-data-path a",
        "--train-data-path 1 a 2 b --valid-data-path c --test-data-path d e",
        "--valid-data-path c",
        "--data-args-path FOLDER/list --split 1",
        "--per-split-data-args-path FOLDER/splits",
        "--data-path 2024 2025 a",
    ],
)
def test_blends_are_megatrons(tmp_path: Path, monkeypatch, flags: str) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("2024", "2025"):
        Path(f"{name}.idx").touch()
    (tmp_path / "list").write_text("0.5 a\n0.25 b\n")
    (tmp_path / "splits").write_text(
        json.dumps({"train": "1 a 3 b", "valid": ["c", "d", "e"], "test": None})
    )
    args = parse(*flags.replace("FOLDER", str(tmp_path)).split())
    assert blends(args) == get_blend_and_blend_per_split(args)


def test_a_split_has_its_part_of_the_documents() -> None:
    args = parse("--data-path", "1", "a", "3", "b", "--split=80,20")
    train, valid = (sources_of_split(args, split) for split in ("train", "valid"))
    assert train == [Source("a", 1.0, (0, 0.8)), Source("b", 3.0, (0, 0.8))]
    assert valid == [Source("a", 1.0, (0.8, 1.0)), Source("b", 3.0, (0.8, 1.0))]
    assert [s.documents for s in sources_of_split(args, "test")] == [(0.0, 0.0)] * 2


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--data-path", "--data-path names no corpus"),
        ("--data-path 1 a b c", "weights for some of its corpora"),
        ("--data-args-path FOLDER/gone", "gone cannot be read"),
        ("--data-args-path FOLDER/list", "--data-args-path needs a --split"),
        ("--per-split-data-args-path FOLDER/list", "list is not JSON"),
        ("--per-split-data-args-path FOLDER/half", "half is not a mapping of train, valid"),
        ("--per-split-data-args-path FOLDER/double", "name all three, once each"),
        ("--per-split-data-args-path FOLDER/nested", "is not a mapping of train, valid"),
        ("--data-path a 1", "weights for some of its corpora"),
        ("--data-path 1 a 2 b c", "weights for some of its corpora"),
        ("--data-path 1 a 0 b", "the corpus b has the weight 0"),
        ("--data-path 1 a -2 b", "the corpus b has the weight -2"),
        ("--data-path nan a 1 b", "the corpus a has the weight nan"),
        ("--data-path inf a 1 b", "the corpus a has the weight inf"),
        ("--train-data-path 1e308 a 1e308 b", "weights that have no sum"),
        ("--data-path a --data-args-path FOLDER/list", "two forms of one thing"),
        ("--data-args-path FOLDER/list --train-data-path a", "two forms of one thing"),
        ("--per-split-data-args-path FOLDER/half --mock-data", "two forms of one thing"),
        ("--data-path a --mock-data", "--data-path and --mock-data are two forms"),
    ],
)
def test_what_cannot_be_understood_is_named(tmp_path: Path, flags: str, says: str) -> None:
    (tmp_path / "list").write_text("a b c")
    (tmp_path / "half").write_text('{"train": ["a"]}')
    (tmp_path / "double").write_text('{"train": "a", "train": "b", "valid": "c", "test": null}')
    (tmp_path / "nested").write_text('{"train": [["a"]], "valid": null, "test": null}')
    with pytest.raises(UserError, match=says):
        sources_of_split(parse(*flags.replace("FOLDER", str(tmp_path)).split()), "train")


# What Megatron finds digits in, or fails over later.
NO_SPLITS = (
    *("many", "", ",", "-1,1,0", "90,-5,5", "90,abc5,5", "90,,10", "1..2", "1.2.3,1,0", "9_0,5"),
    *(
        "1e-3,1",
        "nan,1,1",
        "inf,1,1",
        "90;5;5",
        "90 5 5",
        "90%,5%,5%",
        "90/5/5",
        "٩٠,١٠",
        "1,2,3,4",
    ),
    *("0", "0,0,0", f"{'9' * 400},1", f"{'9' * 308},{'9' * 308},{'9' * 308}"),
)


@pytest.mark.parametrize("split", NO_SPLITS)
@pytest.mark.parametrize("of", ["train", "valid"])
def test_a_split_is_read_whole(split: str, of: str) -> None:
    with pytest.raises(UserError, match=r"--split '.*' is not three shares") as refused:
        sources_of_split(parse("--data-path", "a", f"--split={split}"), of)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("split", ["'99,1,0'", '"99,1,0"'])
def test_the_quotes_of_a_launch_script_are_none_of_a_split(split: str) -> None:
    assert split_bounds(split) == split_bounds("99,1,0")


@pytest.mark.parametrize("split", ["'", "''", "'99,1,0", "99,1,0'", "'99,1,0\""])
def test_a_quote_by_itself_is_part_of_a_split(split: str) -> None:
    with pytest.raises(UserError, match="is not three shares"):
        split_bounds(split)


@given(st.text("0123456789., e-+", max_size=12))
def test_a_split_that_is_taken_is_what_is_written(split: str) -> None:
    """Each field is the number that Python makes of it, and Megatron has the same."""
    try:
        bounds = split_bounds(split)
    except UserError:
        return
    shares = [float(field) for field in split.split(",")]
    assert bounds == convert_split_vector_to_split_matrix(
        normalize([*shares, 0.0, 0.0][:3]),
    )
    assert bounds == convert_split_vector_to_split_matrix(parse_and_normalize_split(split))


def test_a_number_that_is_a_corpus_too_is_not_guessed_at(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path / "2024", [5])
    with pytest.raises(UserError, match=r"2024 in the place of a weight.* write \./2024"):
        blends(parse("--data-path", "2024", "2025"))
    assert blends(parse("--data-path", "./2024", "./2025"))[0] == (["./2024", "./2025"], None)
    assert blends(parse("--data-path", "2024.0", "2025"))[0] == (["2025"], [2024.0])


def test_a_corpus_named_twice_is_named(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    for other in ("there/../there/a", "link/a"):
        with pytest.raises(UserError, match=r"there/a is named 2 times in one blend"):
            check_sources([Source(f"{tmp_path}/there/a"), Source(f"{tmp_path}/{other}")])
    check_sources([Source("s3://bucket/a"), Source("bucket/a")])
