"""A comparison of runs by a method that the package does not have."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_runs import made_ledger

from tst_megatron.analysis.compare import stories
from tst_megatron.analysis.compare.comparable import notes_on, reasons_against
from tst_megatron.analysis.compare.groups import Group, group, settings_apart, settings_notes
from tst_megatron.methods import registry
from tst_megatron.methods.method import Method
from tst_megatron.methods.story import Story
from tst_megatron.runs.inputs import read_runs
from tst_megatron.runs.run import RecordedRun
from tst_megatron.runs.stages import ORDINARY, Stage


class Widened(Story):
    topics = ("tokenizer", "held-out text", "batch")
    absence = "was not widened"


class Widening(Method):
    name = "widening"
    flag_prefix = "widen"

    def story(self) -> Story:
        return Widened(self.name)


@pytest.fixture(autouse=True)
def with_widening(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    methods = (*registry.methods(), Widening())
    monkeypatch.setattr(registry, "methods", lambda: methods)
    stories.every_story.cache_clear()
    yield
    stories.every_story.cache_clear()


def run(folder: Path, name: str, method: str | None = None, **kw: Any) -> RecordedRun:
    stages = [Stage("small model", 100, method=method or ""), Stage(ORDINARY, 300)]
    told = {"name": method, "stages": [stage.as_json() for stage in stages], "facts": {}}
    methods = [] if method is None else [told]
    (found,) = read_runs([made_ledger(folder, name, **kw)])
    return replace(found, header={**found.header, "methods": methods})


def side(found: RecordedRun) -> list[Group]:
    return group([found], "candidate")


def test_it_is_told_in_plain_words(tmp_path: Path) -> None:
    (widened,) = side(run(tmp_path, "a", "widening"))
    assert widened.name == "small model for 25 %"
    (baseline,) = group([run(tmp_path, "b")], "baseline")
    assert reasons_against([baseline], [widened]) == []
    assert settings_apart(baseline, widened) == ["widening"]
    itself = 'The baseline "small model for 25 %" had widening itself: the comparison is of two'
    assert any(note.startswith(itself) for note in notes_on([widened], [widened]))
    assert "had widening and the candidate had not" in reasons_against([widened], [baseline])[0]
    notes = notes_on([baseline], side(run(tmp_path, "c")))
    without = (
        '"ordinary" saw no bags, did not grow, was not upcycled, had no routed blocks, had no '
        "no-op experts, had no compressed text, had no tables of n-grams and was not widened"
    )
    assert f"{without}: the comparison is of two ordinary runs." in notes


def test_what_it_may_differ_in_is_no_reason(tmp_path: Path) -> None:
    wide = {"hidden_size": 64}
    baseline = side(run(tmp_path, "b", flags=wide))
    other = {"hidden_size": 32}
    assert reasons_against(baseline, side(run(tmp_path, "a", "widening", flags=other))) == []
    (reason,) = reasons_against(baseline, side(run(tmp_path, "c", flags=other)))
    assert reason.startswith("The models differ")
    batch = {"global_batch_size": 8}
    (reason,) = reasons_against(baseline, side(run(tmp_path, "d", "widening", flags=batch)))
    assert reason.startswith("The batches differ")


def test_its_own_settings_are_not_beside_it(tmp_path: Path) -> None:
    one = run(tmp_path, "b", flags={"lr": 1})
    other = run(tmp_path, "a", "widening", flags={"lr": 2, "widen_width": 2})
    (note,) = settings_notes(one, other)
    assert note.startswith("Besides widening these settings differ (baseline / candidate): lr (1 /")
    assert "widen_width" not in note


def test_a_method_that_there_is_not_any_more(tmp_path: Path) -> None:
    (found,) = side(run(tmp_path, "a", "forgotten"))
    assert found.name == "small model for 25 %"
    assert stories.settings_of(found.runs[0])["stages of forgotten"] == "small model × 100"
