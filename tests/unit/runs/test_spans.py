import json
from pathlib import Path
from typing import Any

from ledgers import write_ledger

from tst_megatron.runs.facts import facts_of
from tst_megatron.runs.ledger import Ledger
from tst_megatron.runs.spans import Span, spans_of, stage_name
from tst_megatron.runs.stages import Stage, Vocabulary, ordinary_stage

PLAIN = Vocabulary()
Short = tuple[int, str, int, int]


def short(spans: tuple[Span, ...]) -> list[Short]:
    """(index, name, first step, last step) of each."""
    return [(span.index, span.stage.name, span.first_step, span.last_step) for span in spans]


def of(ledger: Ledger, vocabulary: Vocabulary = PLAIN) -> list[Short]:
    return short(spans_of(ledger, facts_of(ledger.header), vocabulary))


def without_header(*facts: dict[str, Any] | None, last_step: int) -> Ledger:
    lines = [
        {"step": 10 * at, "stage": int(one == {}), "facts": one} for at, one in enumerate(facts, 1)
    ]
    return Ledger({}, lines, [{"step": last_step, "facts": {}}])


def first_stage_of(ledger: Ledger, samples: int) -> None:
    ledger.header["methods"][0]["stages"][0]["samples"] = samples


def test_an_ordinary_run_is_one_stage(tmp_path: Path):
    assert of(write_ledger(tmp_path / "l", {30: 4.0})) == [(0, "single tokens", 1, 30)]


def test_switches_are_exact_to_the_step_between_logged_lines(tmp_path: Path):
    ledger = write_ledger(tmp_path / "l", {100: 4.0}, stages=[(4, 120), (2, 100)])
    assert of(ledger) == [
        (0, "bags of 4", 1, 30),
        (1, "bags of 2", 31, 55),
        (2, "single tokens", 56, 100),
    ]


def test_a_schedule_that_names_its_last_stage_is_the_same(tmp_path: Path):
    ledger = write_ledger(tmp_path / "l", {100: 4.0}, stages=[(4, 120), (1, 280)])
    assert of(ledger) == [(0, "bags of 4", 1, 30), (1, "single tokens", 31, 100)]


def test_a_run_cut_short_has_the_stages_it_got_to(tmp_path: Path):
    ledger = write_ledger(tmp_path / "l", {}, stages=[(4, 120), (2, 100)], last_step=22)
    assert of(ledger) == [(0, "bags of 4", 1, 22)]


def test_step_lines_are_believed_against_a_header_that_they_contradict(tmp_path: Path):
    ledger = write_ledger(tmp_path / "l", {100: 4.0}, stages=[(4, 120)])
    first_stage_of(ledger, 200)
    assert of(ledger) == [(0, "bags of 4", 1, 30), (1, "single tokens", 31, 100)]


def test_without_a_batch_size_the_step_lines_are_used(tmp_path: Path):
    ledger = write_ledger(tmp_path / "l", {54: 4.0}, stages=[(4, 132)])
    del ledger.header["flags"]["global_batch_size"]
    assert of(ledger) == [(0, "bags of 4", 1, 30), (1, "single tokens", 31, 54)]


def test_no_progress_no_stage():
    assert of(Ledger({"methods": []})) == []


def test_a_switch_decided_by_measurement_is_where_it_was_decided(tmp_path: Path):
    ledger = write_ledger(tmp_path / "l", {20: 4.2, 100: 4.0}, stages=[(4, 120)])
    first_stage_of(ledger, 200)
    ledger.validations[0]["facts"] = {"switch_step": 30}
    assert of(ledger) == [(0, "bags of 4", 1, 30), (1, "single tokens", 31, 100)]


def test_lines_without_facts_are_of_the_stage_around_them():
    """As W&B samples every series apart."""
    four = {"bag_size": 4}
    ledger = without_header(four, None, four, None, {}, None, None, last_step=75)
    assert of(ledger) == [(0, "bag size 4", 1, 30), (1, "single tokens", 31, 75)]
    # Nothing tells what they were of.
    assert of(without_header(None, last_step=10)) == []


def test_a_vocabulary_names_what_no_header_names():
    def stage(facts: Any) -> Stage:
        return Stage(f"in {facts['bag_size']}s", 0) if facts else ordinary_stage(0)

    ledger = without_header({"bag_size": 4}, {}, last_step=20)
    named = of(ledger, Vocabulary(stage=stage))
    assert named == [(0, "in 4s", 1, 10), (1, "single tokens", 11, 20)]


def test_stages_of_several_methods_are_cut_where_one_of_them_cuts():
    def method(name: str, *samples: int) -> dict[str, Any]:
        stages = [Stage(f"{name}{n}", n, method=name, facts={name: n}) for n in samples]
        return {"name": name, "stages": [stage.as_json() for stage in stages], "facts": {}}

    header = {
        "flags": {"global_batch_size": 10},
        "methods": [method("a", 60, 40), method("b", 100)],
    }
    lines = [{"step": 8, "stage": 1, "facts": {"a": 40, "b": 100}}]
    assert of(Ledger(header, lines)) == [(0, "a60, b100", 1, 6), (1, "a40, b100", 7, 8)]


def test_a_start_need_not_have_known_what_a_later_one_tells():
    """A run that has grown tells of the small model, whose own start knew of no growth."""

    def stage(samples: int, loss: str = "lm loss", **facts: int) -> Stage:
        return Stage(f"{facts}", samples, loss=loss, method="some", facts=facts)

    def found(*stages: Stage, losses: tuple[str, str]) -> list[Short]:
        told = [{"name": "some", "stages": [one.as_json() for one in stages], "facts": {}}]
        header = {"flags": {"global_batch_size": 10}, "methods": told}
        lines = [
            {"step": 4, "stage": 0, "facts": {}, "loss_name": losses[0]},
            {"step": 9, "stage": 1, "facts": dict(stages[1].facts), "loss_name": losses[1]},
        ]
        return of(Ledger(header, lines))

    grown = (stage(50, layers=2), stage(50, layers=4))
    assert found(*grown, losses=("lm loss", "lm loss")) == [
        (0, "{'layers': 2}", 1, 5),
        (1, "{'layers': 4}", 6, 9),
    ]
    # Of another objective: the header tells what the run was to do, and not what it did.
    bags = (stage(50, "bag loss", bag=2), stage(50, bag=1))
    assert found(*bags, losses=("lm loss", "lm loss"))[0] == (0, "single tokens", 1, 4)


def test_the_stage_of_a_line_as_it_was_written(tmp_path: Path):
    path = tmp_path / "l"
    write_ledger(path, {60: 4.0}, stages=[(4, 120)])
    header, *lines = map(json.loads, path.read_text().splitlines())
    assert header["schema_version"] < 3
    names = [stage_name(header, line) for line in lines if line["kind"] == "step"]
    assert names == ["bags of 4"] * 3 + ["single tokens"] * 3
