"""A sweep knows no method: one with a single axis and no curve is searched likewise."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from surfaces import SEARCH

from tst_megatron.errors import UserError
from tst_megatron.methods.search import Axis, Choice, Search, split_values
from tst_megatron.sweep import command, grid


@dataclass(frozen=True, order=True)
class Growth(Choice):
    factor: float

    @property
    def is_baseline(self) -> bool:
        return self.factor == 1

    @property
    def name(self) -> str:
        return "baseline" if self.is_baseline else f"g{self.factor:g}"

    def __str__(self) -> str:
        return "the baseline" if self.is_baseline else f"g = {self.factor:g}"


FACTORS = Axis("factor", "g", "--growth-factors", "G", "to try", "growth g")


class GrowthSearch(Search):
    axes = (FACTORS,)
    baseline = Growth(1)
    usual = Growth(4)
    sets = ("growth-factor",)
    own_flags = ()
    words = replace(SEARCH.words, noun="factor", run="grown", title="Loss by growth", curve="line")

    def values(self, axis: Axis, words: Sequence[str]) -> tuple[float, ...]:
        return tuple(sorted(float(word) for word in split_values(axis.flag, words)))

    def choice(self, values: Sequence[float]) -> Growth:
        return Growth(*values)

    def choice_of_row(self, row: Mapping[str, str]) -> Growth:
        return Growth(float(row["factor"]))

    def more_text(self, choice: Choice) -> float:
        return 0.0


@pytest.fixture
def two_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (grid, command):
        monkeypatch.setattr(module, "searches", lambda: (SEARCH, GrowthSearch()))


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    command.add_arguments(parser)
    return parser.parse_args(words)


def test_the_method_is_the_one_whose_axes_are_given(two_methods) -> None:
    asked = grid.grid_of(parsed("--growth-factors", "2,8", "4"))
    assert asked.values == ((2, 4, 8),)
    assert asked.ordered() == (Growth(1), Growth(4), Growth(8), Growth(2))
    with pytest.raises(UserError, match="--bag-sizes and --growth-factors are of two methods"):
        grid.grid_of(parsed("--growth-factors", "2", "--bag-sizes", "4"))


def test_its_table_is_reported_on(two_methods, tmp_path: Path, capsys) -> None:
    table = tmp_path / "table.csv"
    table.write_text("factor,loss,seed\n1,3.2,1\n1,3.21,2\n2,3.1,1\n2,3.12,2\n4,3.15,1\n4,3.16,2\n")
    out = tmp_path / "out"
    assert command.main(parsed("--from-csv", str(table), "--out", str(out)), []) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["headline"].startswith("Take g = 2: 0.0950 nats (")
    assert report["recommendation"]["best_cell"] == {"factor": 2.0}
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert "<th>g</th>" in (out / "report.html").read_text()
    assert "*3.1100" in capsys.readouterr().out
    assert (out / "cells.csv").read_text().startswith("factor,seed,loss")
