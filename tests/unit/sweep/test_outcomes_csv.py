"""Results as a table: what is written is read, and a bad table is one sentence."""

import math
import re
from pathlib import Path

import pytest
from surfaces import SEARCH, paper

from tst_megatron.errors import UserError
from tst_megatron.methods.superposition.axes import BASELINE, Pair
from tst_megatron.runs.outcomes import Outcome
from tst_megatron.sweep.outcomes_csv import as_csv, read_csv


def read(file: Path) -> list[Outcome]:
    return read_csv(file, [SEARCH])[1]


def test_a_table_comes_back_as_it_was(tmp_path: Path) -> None:
    results = [
        Outcome(BASELINE, 1, 3.25, 0.01, 100, 2**40, 1.5),
        Outcome(Pair(4, 0.25), 2, 3.125),
    ]
    file = tmp_path / "cells.csv"
    file.write_text(as_csv(SEARCH, results))
    assert read(file) == results
    file.write_text(as_csv(SEARCH, paper()))
    assert read(file) == paper()
    file.write_text(as_csv(SEARCH, [Outcome(Pair(4, 0.25), 1, math.nan)]))
    assert math.isnan(read(file)[0].loss)


def test_the_papers_table_is_whole() -> None:
    results = paper()
    assert len(results) == 29
    assert {r.choice.step_ratio for r in results} == {0.0, 0.1, 0.3, 0.5, 0.9}
    # Table 1: 42B tokens of text for the baseline.
    assert results[0].data_tokens == 20_000 * 1024 * 2048


def test_three_columns_are_enough(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_text("loss,step_ratio,bag_size\n3.2,,1\n3.1,0.3,4\n")
    assert read(file) == [Outcome(BASELINE, 1, 3.2), Outcome(Pair(4, 0.3), 1, 3.1)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no column bag_size"),
        ("bag_size,loss\n4,3.1\n", "has no column step_ratio"),
        ("bag_size,step_ratio,loss\n", "has no row below the names of its columns"),
        ("bag_size,loss\n", "has no column step_ratio"),
        ("bag_size,step_ratio,loss\n4,0.3,low\n", "line 2: a value is missing or is no number"),
        ("bag_size,step_ratio,loss\n4,0.3\n", "line 2: a value is missing"),
        ("bag_size,step_ratio,loss\n4,1.3,3.1\n", "line 2: a run has"),
        ("bag_size,step_ratio,loss\n0,0.3,3.1\n", "line 2: a run has"),
        ("bag_size,step_ratio,loss\n4,0.3,3.1\n4,0.3,3.2\n", "line 3: s = 4, r = 0.3 with seed 1"),
        ("bag_size,step_ratio,loss\n1,0,3.1\n", "has no superposed run"),
    ],
)
def test_a_bad_table_is_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "table.csv"
    file.write_text(text)
    with pytest.raises(UserError, match=re.escape(says)):
        read(file)


def test_a_missing_table_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read(tmp_path / "nowhere.csv")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="it is not text"):
        read(tmp_path / "bytes.csv")
