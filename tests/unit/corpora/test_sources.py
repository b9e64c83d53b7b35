"""Megatron's data flags, read by us and by Megatron."""

import json
from pathlib import Path

import numpy as np
import pytest
from counted_corpora import parse
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
        "--data-args-path FOLDER/list",
        "--per-split-data-args-path FOLDER/splits",
    ],
)
def test_blends_are_megatrons(tmp_path: Path, flags: str) -> None:
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
        ("--data-path a --split many", "--split 'many' is not three shares"),
        ("--data-path a --split 1..2", "is not three shares"),
        ("--data-path a --split 1,2,3,4", "is not three shares"),
    ],
)
def test_what_cannot_be_understood_is_named(tmp_path: Path, flags: str, says: str) -> None:
    (tmp_path / "list").write_text("a b c")
    (tmp_path / "half").write_text('{"train": ["a"]}')
    with pytest.raises(UserError, match=says):
        sources_of_split(parse(*flags.replace("FOLDER", str(tmp_path)).split()), "train")


@pytest.mark.parametrize("weight", [0.0, -1.0, np.inf, np.nan])
def test_a_weight_that_is_none_is_named(weight: float) -> None:
    with pytest.raises(UserError, match="the corpus b has the weight"):
        check_sources([Source("a", 1.0), Source("b", weight)])


def test_a_corpus_named_twice_is_named(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    for other in ("there/../there/a", "link/a"):
        with pytest.raises(UserError, match=r"there/a is named 2 times in one blend"):
            check_sources([Source(f"{tmp_path}/there/a"), Source(f"{tmp_path}/{other}")])
    check_sources([Source("s3://bucket/a"), Source("bucket/a")])
