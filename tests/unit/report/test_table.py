import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tst_megatron.report.table import Table, csv_text, markdown_text, print_table

WORDS = st.text("abc ,", max_size=30)


def printed(table: Table, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_table(console, table)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]  # It is a StringIO.
    return text


def test_figures_stand_from_the_right_and_words_from_the_left() -> None:
    table = Table("Hours", ("run", "hours", "why"), (("one", "1.5", "slow"),), frozenset({2}))
    title, head, rule, row, *rest = printed(table).splitlines()
    assert title == "Hours"
    assert head.split() == ["run", "hours", "why"]
    assert set(rule) == {"─"}
    assert row.rstrip() == "one    1.5  slow"
    assert rest == [""]


def test_remarks_stand_on_a_line_each_and_names_fold_before_them() -> None:
    name, remark = "a name of a group of runs that is long", "no difference shown"
    table = Table(
        "", ("group", "ratio", ""), ((name, "1.00×", f"{remark}, extrapolated"),),
        remarks=frozenset({2}),
    )  # fmt: skip
    lines = [line.rstrip() for line in printed(table, width=44).splitlines()]
    assert any(line.endswith(remark) for line in lines)
    assert any(line.endswith("extrapolated") for line in lines)
    assert max(map(len, lines)) <= 44


def test_words_keep_their_commas() -> None:
    assert "one, two" in printed(Table.of_words(("flag", "layouts"), [("--a", "one, two")]))


def test_a_note_stands_below_and_no_cell_is_markup() -> None:
    text = printed(Table("", ("[b]head", "x"), (("[red]cell", "1"),), note="* the lowest"))
    assert "[b]head" in text
    assert "[red]cell" in text
    assert text.rstrip().endswith("* the lowest")


@given(st.lists(st.tuples(WORDS, WORDS, WORDS), max_size=5), st.integers(12, 60), st.booleans())
def test_nothing_is_wider_than_the_console_and_no_letter_is_lost(
    rows: list[tuple[str, str, str]], width: int, has_words: bool
) -> None:
    words = frozenset({1} if has_words else ())
    table = Table("", ("x", "y", "z"), tuple(rows), words, frozenset({2}))
    text = printed(table, width)
    assert max(map(len, text.splitlines())) <= width
    for letter in "abc":
        assert text.count(letter) == sum("".join(row).count(letter) for row in rows)


@pytest.mark.parametrize(
    ("value", "cell"), [(None, ""), (1.25, "1.25"), ('a "b", c', '"a ""b"", c"')]
)
def test_rows_of_values_as_csv(value: object, cell: str) -> None:
    assert csv_text(("x", "y"), [(1, value)]) == f"x,y\n1,{cell}\n"


def test_markdown_has_the_title_the_rows_and_the_note() -> None:
    table = Table("Losses", ("", "loss", "why"), (("a|b", "2.1", "x"),), frozenset({2}), note="n")
    assert markdown_text(table).splitlines() == [
        *("### Losses", "", "|  | loss | why |", "| --- | ---: | --- |"),
        *(r"| a\|b | 2.1 | x |", "", "n"),
    ]
