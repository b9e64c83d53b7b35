from dataclasses import replace

import numpy as np
import pytest
from made_findings import baseline, findings, run, superposed

from tst_megatron.analysis.compare.findings import Findings
from tst_megatron.analysis.compare.groups import Group
from tst_megatron.analysis.compare.tables import (
    final_loss,
    runs_table,
    settings_tables,
    share_of_other_time,
    tables_of,
)


def test_settings_are_told_without_the_machines_folders() -> None:
    flags = {"data_path": ["0.5", "/home/me/a/corpus", "0.5", "/x/y/z/other"], "lr": 0.002}
    theirs = Group("baseline", (run("b", 1, flags=flags | {"tokenizer_model": "/a/b/c/t"}),), 1)
    ours = Group("bags", (run("t", 1, 4, flags=flags | {"tokenizer_model": "/a/b/d/t"}),), 1)
    differing, shared = settings_tables(Findings((theirs,), (ours,), ()))
    assert ("tokenizer_model", "…/c/t", "…/d/t") in differing.rows
    assert ("data_path", "0.5, …/a/corpus, 0.5, …/z/other") in shared.rows
    assert ("lr", "0.002") in shared.rows


def test_a_run_that_ends_without_a_loss_has_no_final_loss() -> None:
    group = superposed()
    curve = group.runs[0].curve
    broken = replace(curve, losses=np.append(curve.losses[:-1], np.nan))
    runs = (replace(group.runs[0], curve=broken), group.runs[1])
    assert final_loss(Group("", runs, 1)) == pytest.approx(group.runs[1].curve.losses[-1])
    assert final_loss(Group("", runs[:1], 1)) is None
    assert runs_table(Findings((), (Group("", runs[:1], 1),), ())).rows[0][-1] == "–"


def test_the_share_of_time_that_was_no_computation() -> None:
    one = baseline().runs[0]
    assert share_of_other_time(one) == pytest.approx(3 / 18)
    unknown = np.full(one.steps.steps.size, np.nan)
    steps = replace(one.steps, compute_s=unknown, other_s=unknown)
    assert share_of_other_time(replace(one, steps=steps)) is None


def test_only_what_is_there_has_a_table() -> None:
    titles = [table.title.split(":")[0] for table in tables_of(findings())]
    assert titles == ["At equal loss 2.287", "Held-out loss, TST − baseline, nats a token", "Runs"]
    assert [table.title for table in tables_of(Findings((baseline(),), (), ()))] == ["Runs"]
