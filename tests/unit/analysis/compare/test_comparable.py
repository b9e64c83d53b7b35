from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_runs import made_run

from tst_megatron.analysis.compare.comparable import clocks_compare, notes_on, reasons_against
from tst_megatron.analysis.compare.compare import compare_so_far
from tst_megatron.analysis.compare.groups import Group, group, settings_notes
from tst_megatron.analysis.compare.sentences import first_sentences

HEADER = {
    "device": "cpu",
    "world_size": 1,
    "parameters": {"total": 524928, "active": 275776},
    "tokenizer": {"type": "A", "model": "/a/t.model", "sha256": "0" * 64, "padded_vocab_size": 384},
    "data": [{"path": "/a/corpus", "manifest_sha256": "1" * 64}],
}
FLAGS = {
    "num_layers": 2,
    "hidden_size": 128,
    "num_experts": None,
    "tokenizer_model": "/a/t.model",
    "tokenizer_type": "A",
    "padded_vocab_size": 384,
    "data_path": ["/a/corpus"],
    "split": "98,2,0",
    "eval_iters": 16,
    "eval_global_batch_size": 32,
    "fixed_validation": True,
    "rampup_batch_size": None,
    "step_batch_size_schedule": None,
}


def side(
    folder: Path,
    name: str,
    header: dict[str, Any] | None = None,
    flags: dict[str, Any] | None = None,
    bags: bool = False,
    **kw: Any,
) -> list[Group]:
    run = made_run(
        folder,
        name,
        HEADER | (header or {}),
        flags=FLAGS | (flags or {}),
        stages=[(4, 100)] if bags else None,
        **kw,
    )
    return group([run], "candidate" if bags else "baseline")


def test_runs_that_differ_in_bags_alone_compare(tmp_path: Path):
    sides = side(tmp_path, "base"), side(tmp_path, "tst", bags=True)
    assert reasons_against(*sides) == []
    assert notes_on(*sides) == []
    assert clocks_compare(*sides)


def test_lengths_and_places_may_differ(tmp_path: Path):
    other = side(
        tmp_path,
        "tst",
        {
            "tokenizer": HEADER["tokenizer"] | {"model": "/b/t.model"},
            "data": [{"path": "/b/corpus", "manifest_sha256": "1" * 64}],
        },
        {"tokenizer_model": "/b/t.model", "data_path": ["/b/corpus"]},
        bags=True,
        planned=300,
    )
    assert reasons_against(side(tmp_path, "base"), other) == []


@pytest.mark.parametrize(
    ("header", "flags", "says"),
    [
        ({}, {"hidden_size": 256}, "The models differ: hidden_size is 128 in"),
        ({}, {"num_experts": 8}, "num_experts is None in"),
        ({"parameters": {"total": 9}}, {}, "in the vocabulary is 524,928 in"),
        (
            {"tokenizer": HEADER["tokenizer"] | {"sha256": "2" * 64}},
            {},
            "The tokenizers differ, so a loss a token is not of the same thing: sha256 is 000000000"
            '000 in "baseline" and 222222222222 in "bags of 4 for 25 %"; nor do they compare in '
            "bits a byte, as base does not tell how many bytes",
        ),
        ({"tokenizer": {"type": "B"}}, {}, "type is A in"),
        ({"tokenizer": {"padded_vocab_size": 512}}, {}, "padded vocabulary is 384 in"),
        ({"data": [{"path": "/a/corpus", "manifest_sha256": "2" * 64}]}, {}, "data sha256 is 1111"),
        ({"data": []}, {"data_path": ["/a/other"]}, "data is corpus in"),
        ({}, {"split": "90,10,0"}, "split is 98,2,0 in"),
        ({}, {"eval_iters": 8}, "sequences evaluated is 512 in"),
        ({}, {"fixed_validation": False}, "fixed_validation is True in"),
        ({}, {"global_batch_size": 8}, "The batches differ, so a step is not a step: global_batch"),
        ({}, {"seq_length": 64}, "seq_length is 128 in"),
        ({}, {"rampup_batch_size": ["2", "2", "400"]}, "rampup_batch_size is None in"),
        ({}, {"step_batch_size_schedule": "0:2 1K:4"}, "step_batch_size_schedule is None in"),
    ],
)
def test_facts_that_differ_are_named(tmp_path: Path, header: Any, flags: Any, says: str):
    reasons = reasons_against(
        side(tmp_path, "base"), side(tmp_path, "tst", header, flags, bags=True)
    )
    assert any(says in reason for reason in reasons), reasons


def test_one_padded_further_is_the_same_model(tmp_path: Path):
    header = {
        "tokenizer": HEADER["tokenizer"] | {"padded_vocab_size": 512},
        "parameters": {"total": 557696},
    }
    other = side(tmp_path, "tst", header, {"padded_vocab_size": 512}, bags=True)
    assert reasons_against(side(tmp_path, "base"), other) == []


def test_a_flag_that_megatron_completes_late_does_not_count(tmp_path: Path):
    plain = {"group_query_attention": False, "num_attention_heads": 4, "num_query_groups": 1}
    late = plain | {"num_query_groups": 4}
    sides = side(tmp_path, "base", flags=late), side(tmp_path, "tst", flags=plain, bags=True)
    assert reasons_against(*sides) == []
    grouped = {"group_query_attention": True}
    sides = (
        side(tmp_path, "base", flags=late | grouped),
        side(tmp_path, "tst", flags=plain | grouped, bags=True),
    )
    assert "num_query_groups is 4 in" in reasons_against(*sides)[0]


def test_held_out_text_of_its_own_counts_alone(tmp_path: Path):
    """Training data may differ where the validation data are named apart from them."""

    def on(name: str, train: str, bags: bool) -> list[Group]:
        data = [
            {"path": f"/a/{train}", "manifest_sha256": train * 64},
            {"path": "/a/valid", "manifest_sha256": "9" * 64},
        ]
        flags = {"data_path": None, "train_data_path": [f"/a/{train}"]}
        flags |= {"valid_data_path": ["/a/valid"], "split": None}
        return side(tmp_path, name, {"data": data}, flags, bags)

    assert reasons_against(on("base", "3", False), on("tst", "4", True)) == []


def test_all_of_the_held_out_text_is_the_same_in_however_many_batches(tmp_path: Path):
    full = {"full_validation": True}
    sides = (
        side(tmp_path, "base", flags=full),
        side(tmp_path, "tst", flags=full | {"eval_iters": 3}, bags=True),
    )
    assert reasons_against(*sides) == []


def test_tokenizers_are_told_apart_by_what_they_hold(tmp_path: Path):
    """By the manifest's hash, of Hugging Face folders too: a folder may be called anything."""

    def of(name: str, folder: str, sha256: str | None, bags: bool) -> list[Group]:
        told = {"type": "HuggingFaceTokenizer", "model": folder, "sha256": sha256}
        flags = {"tokenizer_model": folder, "tokenizer_type": "HuggingFaceTokenizer"}
        return side(tmp_path, name, {"tokenizer": told}, flags, bags)

    base = of("base", "/a/llama", "1" * 64, False)
    renamed = of("renamed", "/b/mine", "1" * 64, True)
    assert reasons_against(base, renamed) == []
    assert notes_on(base, renamed) == []
    assert settings_notes(base[0].runs[0], renamed[0].runs[0]) == []
    (reason,) = reasons_against(base, of("other", "/b/llama", "2" * 64, True))
    assert "The tokenizers differ" in reason
    untold = of("untold", "/b/mine", None, True)
    assert reasons_against(base, untold) == []
    assert notes_on(base, untold) == [
        '"bags of 4 for 25 %" tells its tokenizer by name alone ("mine"): taken to hold the same '
        "as the others'."
    ]


def test_a_candidate_that_does_not_tell_its_method_is_not_called_ordinary(tmp_path: Path):
    bare = replace(made_run(tmp_path, "bare", losses={50: 3.0, 100: 2.0}), header={}, stages=())
    bare = replace(bare, steps=replace(bare.steps, facts=({},) * bare.steps.steps.size))
    ours = group([bare], "candidate")
    assert ours[0].name == "candidate"
    bags, ordinary = side(tmp_path, "tst", bags=True), side(tmp_path, "base")
    assert reasons_against(bags, ours) == []
    told = notes_on(ordinary, ours)
    assert any('"candidate" does not tell by which methods it was trained' in note for note in told)
    assert not any("ordinary runs" in note for note in told)


def test_what_is_not_told_is_a_note(tmp_path: Path):
    bare = made_run(tmp_path, "bare")
    bare = replace(bare, header={}, steps=replace(bare.steps, facts=({},) * bare.steps.steps.size))
    sides = group([bare], "baseline"), side(tmp_path, "tst", bags=True)
    assert reasons_against(*sides) == []
    assert notes_on(*sides) == [
        '"baseline" does not tell its model, tokenizer, held-out text or batch: taken to be the '
        "same as the others'.",
        '"baseline" does not tell by which methods it was trained: it may be an ordinary run or '
        "not, and how much text it read is not known.",
    ]
    assert clocks_compare(*sides)


def test_a_side_without_a_held_out_loss(tmp_path: Path):
    sides = side(tmp_path, "base"), side(tmp_path, "tst", bags=True, losses={}, last_step=100)
    (reason,) = reasons_against(*sides)
    assert "candidate has no held-out loss" in reason


def test_a_run_cut_short_with_one_loss(tmp_path: Path):
    notes = notes_on(side(tmp_path, "base", losses={30: 4.0}), side(tmp_path, "tst", bags=True))
    assert notes == [
        "base has a single held-out loss: nothing along its run can be compared.",
        "base ended at step 30 of 100.",
    ]


def test_sides_that_look_swapped(tmp_path: Path):
    (reason,) = reasons_against(side(tmp_path, "a", bags=True), side(tmp_path, "b"))
    assert "sides look swapped" in reason


def test_two_ordinary_runs_and_two_with_bags_may_be_compared(tmp_path: Path):
    ordinary = side(tmp_path, "a"), side(tmp_path, "b")
    bags = side(tmp_path, "c", bags=True), side(tmp_path, "d", bags=True)
    assert [*reasons_against(*ordinary), *reasons_against(*bags)] == []
    assert "saw no bags" in notes_on(*ordinary)[0]
    assert "saw bags itself" in notes_on(*bags)[0]


def test_a_run_against_itself_and_a_seed_twice(tmp_path: Path):
    once = side(tmp_path, "a")
    (reason,) = reasons_against(once, once)
    path = tmp_path / "a" / "ledger.jsonl"
    assert reason == (
        f'A run would be compared with itself: "a" ({path}) is on both sides, so name the runs of '
        "each."
    )
    told, flags = {**HEADER, "seed": None}, {**FLAGS, "seed": 1234}
    runs = [made_run(tmp_path, name, told, flags=flags) for name in ("b", "c")]
    assert any(
        '2 runs of "baseline" have seed 1234' in note
        for note in notes_on(group(runs, "baseline"), once)
    )


@pytest.mark.parametrize(
    ("header", "says"), [({"device": "H100"}, "cpu and H100"), ({"world_size": 8}, "1 ranks and 8")]
)
def test_other_hardware_spoils_the_hours_alone(tmp_path: Path, header: Any, says: str):
    sides = side(tmp_path, "base"), side(tmp_path, "tst", header, bags=True)
    assert reasons_against(*sides) == []
    assert not clocks_compare(*sides)
    assert any(says in note for note in notes_on(*sides))


@pytest.mark.parametrize("which", ["baseline", "candidate"])
def test_a_side_that_diverged_at_its_end_is_refused(tmp_path: Path, which: str):
    """Any finite loss counted, and the report said that a side had none."""
    bags = which == "candidate"
    bad = side(tmp_path, "bad", losses={50: 4.0, 100: None}, bags=bags)
    good = side(tmp_path, "good", bags=not bags)
    sides = (good, bad) if bags else (bad, good)
    (reason,) = reasons_against(*sides)
    assert reason == (
        f"The {which} diverged at the end: its held-out loss is not finite at step 100 of "
        f"{tmp_path / 'bad' / 'ledger.jsonl'}."
    )
    # Forced, and of runs under way, the headline says it too.
    begun = compare_so_far(*([run for found in one for run in found.runs] for one in sides), 0.95)
    whose = "the candidate" if bags else "the baseline"
    assert first_sentences(begun) == (
        f"There is no comparison yet: {whose} diverged, its held-out loss is not finite at step "
        "100."
    )


@pytest.mark.parametrize("losses", [{50: None, 100: 3.0}, {30: 5.0, 50: None, 100: 3.0}])
def test_a_side_that_came_back_or_has_another_run_may_be_compared(tmp_path: Path, losses: Any):
    tst = side(tmp_path, "tst", bags=True)
    assert reasons_against(side(tmp_path, "back", losses=losses), tst) == []
    runs = [
        run
        for name, of in (("a", {50: 4.0, 100: None}), ("b", {50: 4.0, 100: 3.0}))
        for run in side(tmp_path, name, losses=of)[0].runs
    ]
    assert reasons_against(group(runs, "baseline"), tst) == []
