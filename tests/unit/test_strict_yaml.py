"""YAML says what its writer meant, or is refused in a sentence that names the line."""

import ast
import copy
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from tst_megatron import strict_yaml
from tst_megatron.errors import UserError

REPOSITORY = Path(__file__).parents[2]


def read(folder: Path, text: str | bytes, **more: Any) -> Any:
    file = folder / "mine.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return strict_yaml.read(file, "the file mine.yaml", **more)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # What YAML 1.1, and PyYAML, take for a text, 240.3, 8, a date and 3,600.
        ("1e-3", 0.001),
        ("4:0.3", "4:0.3"),
        ("010", 10),
        ("2024-01-01", "2024-01-01"),
        ("1:00:00", "1:00:00"),
        ("16:0.2,4:0.1", "16:0.2,4:0.1"),
        ("1E6", 1e6),
        ("+.5", 0.5),
        ("-3", -3),
        ("1_000", "1_000"),
        ("0x1F", "0x1F"),
        (".INF", math.inf),
        ("-.inf", -math.inf),
        ("true", True),
        ("False", False),
        ("", None),
        ("~", None),
        ("null", None),
        ("'on'", "on"),
        ('"1e-3"', "1e-3"),
        ("[1, no way, '']", [1, "no way", ""]),
        ("&a [1]", [1]),
        ("a b", "a b"),
    ],
)
def test_values(tmp_path: Path, text: str, value: Any) -> None:
    found = read(tmp_path, f"key: {text}\n")["key"]
    assert (found, isinstance(found, bool)) == (value, isinstance(value, bool))


@pytest.mark.parametrize("text", ["007", "1.10", "1e-3", "3.0e-4", "+5", "1."])
def test_a_number_is_shown_as_it_was_written(tmp_path: Path, text: str) -> None:
    number = read(tmp_path, text)
    assert str(number) == f"{number}" == str(copy.deepcopy(number)) == text
    assert json.loads(json.dumps(number)) == number == float(text)


def test_keys_are_words(tmp_path: Path) -> None:
    assert read(tmp_path, "on: 1\n8: 2\ntrue: 3\n") == {"on": 1, "8": 2, "true": 3}
    assert read(tmp_path, "") is None
    assert read(tmp_path, "\ufeffa: {b: [c]}") == {"a": {"b": ["c"]}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lr: 1\nseed: 2\nlr: 1\n", "has the key lr twice, on lines 1 and 3: leave one of them"),
        ("a:\n- {b: 1,\n   b: 2}\n", "has the key b twice, on lines 2 and 3"),
        ("num-layers: 1\nnum_layers: 1\n", "has num-layers and num_layers, two spellings of one"),
        ("swiglu: on", 'has on on line 1, .* boolean .*: write true or false, or "on" in quotes'),
        ("a: [1,\n No]", "has No on line 2"),
        ("a: !!str 1", "has the tag tag:yaml.org,2002:str on line 1: leave it out"),
        ("a: 1\nb: !!python/object/apply:os.system [ls]", "has the tag .*os.system on line 2"),
        ("a: ! 1", "has the tag ! on line 1"),
        ("? [a, b]\n: 1\n", "has a key that is no word, on line 1"),
        ("a: &b [*b]", r"has the alias \*b on line 1: write out what it stands for, or quote it"),
        ("a: &b [1]\nc: *b", r"has the alias \*b on line 2"),
        ("inputs: [*all]", r"has the alias \*all on line 1: .* or quote it if it is text$"),
        ("a: [y,\n N]", "has y on line 1, which some readers of YAML take for a boolean"),
        ("a: " + "9" * 5_000, "has the number 9{20} on line 1, which is too large to read"),
        ("a: \nb: -1e999", "has the number -1e999 on line 2, which is too large"),
        ("a: " + "[" * 3_000, "has lists or mappings in one another, too many to read"),
        ("a: \a", "is not YAML: unacceptable character #x0007"),
        ("a: b\0c", "is not YAML: unacceptable character #x0000"),
        ("a: [", "is not YAML: .* line 1, column 5"),
        ("a: 1\n---\nb: 1\n", "is not YAML: expected a single document"),
        (b"a: \xff", "cannot be read: it is not text in UTF-8"),
    ],
)
def test_what_could_be_misread_is_refused(tmp_path: Path, text: str | bytes, says: str) -> None:
    with pytest.raises(UserError, match=f"^the file mine.yaml {says}") as refused:
        read(tmp_path, text, spelled=lambda key: key.replace("_", "-"))
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^x cannot be read: No such file or directory$"):
        strict_yaml.read(tmp_path / "gone.yaml", "x")


# Of characters that mean something to YAML, break its lines or are in no text of it.
_TEXTS = st.text("ae01 \n\t\r\"'#:-~.,?!&*{[|>%@`é\u2028\x00\x85\ufeff😀") | st.sampled_from(
    ["1e-3", "on", "No", "010", "1:00:00", "2024-01-01", ".inf", "true", "null", "a: b", "<<"]
)


@example({"about": "\x85"})
@given(
    st.dictionaries(
        st.sampled_from(["about", "lr", "split", "on", "1e-3"]),
        _TEXTS | st.booleans() | st.none() | st.integers() | st.floats(allow_nan=False),
    )
)
def test_what_is_written_is_read_again(values: dict[str, Any]) -> None:
    text = strict_yaml.written(values)
    with tempfile.TemporaryDirectory() as folder:
        found = read(Path(folder), text)
    assert found == values
    assert yaml.safe_load(text) == values
    assert [type(found[key]) is bool for key in values] == [
        type(value) is bool for value in values.values()
    ]


def test_a_value_that_stands_twice_is_written_twice(tmp_path: Path) -> None:
    layers = [1, 2]
    assert read(tmp_path, strict_yaml.written({"a": layers, "b": layers})) == {
        "a": layers,
        "b": layers,
    }


def test_nothing_else_reads_yaml() -> None:
    folders = ("tst_megatron", "tools", "examples", "benchmarks")
    reading = [
        file.relative_to(REPOSITORY).as_posix()
        for folder in folders
        for file in sorted((REPOSITORY / folder).rglob("*.py"))
        if {"yaml", "ruamel", "omegaconf"} & _imported(file)
    ]
    assert reading == ["tst_megatron/strict_yaml.py"]


def _imported(file: Path) -> set[str]:
    """The packages that a file imports, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found
