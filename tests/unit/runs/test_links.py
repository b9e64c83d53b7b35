"""Links of a chain, told by the headers of its starts alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from tst_megatron.runs.inputs import read_runs
from tst_megatron.runs.links import LinkStart, links_in_words, links_of


def start(step: int, folder: str, once: bool = True) -> dict[str, Any]:
    return {"step": step, "flags": {"save": folder, "load_once": once and step > 0}}


def links(*headers: dict[str, Any]) -> list[tuple[str, int]]:
    return [(link.name, link.after) for link in links_of(headers)]


FIRST = start(0, "out/links/1-small")


def test_a_link_begins_where_the_folder_is_another() -> None:
    second, third = start(250, "out/links/2-longer"), start(500, "out/links/3-2-bags")
    found = [("small", 0), ("longer", 250), ("2-bags", 500)]
    assert links(FIRST, second, third) == found
    # Each started over: before its first checkpoint, and after some.
    assert links(FIRST, start(100, "out/links/1-small"), second, second, third) == found
    again = start(300, "out/links/2-longer")
    assert links(FIRST, second, again, third, third) == found


def test_a_link_that_was_gone_back_behind_is_none_any_more() -> None:
    second = start(250, "out/links/2-longer")
    back = start(100, "out/links/1-small")
    assert links(FIRST, second, back) == []
    assert links(FIRST, second, back, start(200, "out/links/2-other")) == [
        ("small", 0),
        ("other", 200),
    ]


def test_folders_below_are_called_by_what_tells_them_apart() -> None:
    found = links(start(0, "runs/a/checkpoints"), start(10, "runs/b/checkpoints"))
    assert found == [("a", 0), ("b", 10)]


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [{"step": 0}],
        [FIRST],
        [FIRST, start(100, "out/links/1-small")],
        # A branch in another folder is no link.
        [start(0, "one", once=False), start(100, "other", once=False)],
        [FIRST, {"step": 100, "flags": {"load_once": True}}],
    ],
)
def test_any_other_run_has_none(headers: list[dict[str, Any]]) -> None:
    assert links(*headers) == []


def test_words() -> None:
    told = links_in_words([LinkStart("small", 0), LinkStart("grown", 250)], 1000)
    assert told == "A chain of 2 links: small to step 250, grown to step 1,000."


def test_a_run_is_read_with_them(tmp_path: Path) -> None:
    of_run = {"kind": "header", "schema_version": 3, "run_id": "a"}
    lines = [
        of_run | FIRST,
        {"kind": "validation", "step": 10, "next_token_loss": 3.0},
        of_run | start(10, "out/links/2-longer"),
        {"kind": "validation", "step": 20, "next_token_loss": 2.0},
    ]
    file = tmp_path / "ledger.jsonl"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (run,) = read_runs([file])
    assert run.links == (LinkStart("small", 0), LinkStart("longer", 10))
    assert run.notes == ("A chain of 2 links: small to step 10, longer to step 20.",)
