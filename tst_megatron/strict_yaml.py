"""YAML as its writer meant it, or a sentence: the project's only reader and writer of it.

The one idea: YAML's versions disagree on what plain words are (``on``, ``1e-3``, ``4:0.3``,
``010``), so nothing is left to them. Decimal numbers are numbers and keep their spelling, ``true``
and ``false`` are the only booleans, a word that is a boolean to some readers is refused, and all
else is text. A key stands once; tags and aliases are refused.
"""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import yaml

from tst_megatron.errors import UserError

_NULLS = ("", "~", "null", "Null", "NULL")
_BOOLEANS = {
    spelled: word == "true"
    for word in ("true", "false")
    for spelled in (word, word.title(), word.upper())
}
# Booleans to a reader of YAML 1.1, text to one of 1.2.
_AMBIGUOUS = ("yes", "no", "on", "off", "y", "n")
_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = {".inf": math.inf, "+.inf": math.inf, "-.inf": -math.inf, ".nan": math.nan}


class _Written:
    """A number that is shown as it was written."""

    written: str

    def __new__(cls, text: str) -> Self:
        """The number that a text says."""
        number: Self = super().__new__(cls, text)  # type: ignore[call-arg]  # that of the number
        number.written = text
        return number

    def __str__(self) -> str:
        return self.written


class WrittenInt(_Written, int):
    """An integer: ``007`` may be a name."""


class WrittenFloat(_Written, float):
    """A float: ``1.10`` may be a version."""


def read(path: Path, where: str, spelled: Callable[[str], str] = str) -> Any:
    """Read a file of YAML: mappings, lists, texts, numbers, booleans and None.

    Args:
        path: of the file.
        where: names it in errors, such as ``the recipe mine.yaml``.
        spelled: a key, in any mapping, to the one that it is known by; two of one such key are one
            key twice.

    Raises:
        UserError: it cannot be read, or does not say what it means beyond doubt.
    """
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise UserError(f"{where} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{where} cannot be read: it is not text in UTF-8") from None
    try:
        # PyYAML meets a character that YAML does not have as soon as it is given the text.
        node = _Loader(text).get_single_node()
        return None if node is None else _Values(spelled).of(node)
    except _DoubtError as doubt:
        raise UserError(f"{where} has {doubt}") from None
    except RecursionError:
        raise UserError(
            f"{where} has lists or mappings in one another, too many to read: write fewer"
        ) from None
    except yaml.YAMLError as error:
        raise UserError(f"{where} is not YAML: {' '.join(str(error).split())}") from None


def written(values: Mapping[str, Any]) -> str:
    """A mapping as YAML that `read`, and readers of YAML 1.1 and 1.2, take for the same values."""
    # PyYAML's stubs say nothing of a dumper's types.
    return str(yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


class _Dumper(yaml.SafeDumper):
    """PyYAML's writer, which knows what is no text in YAML 1.1 alone."""

    def ignore_aliases(self, data: Any) -> bool:  # `read` takes none
        return True

    def text(self, data: str) -> yaml.ScalarNode:
        """A text, in quotes where without them it would be something else.

        Without them, or in single ones, PyYAML writes line ends as they are, which become spaces.
        """
        try:
            plain = data.isprintable() and _plain(data, 0) == data
        except _DoubtError:
            plain = False
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if plain else '"')


_Dumper.add_representer(str, _Dumper.text)


class _DoubtError(Exception):
    """Something that a reader could take in two ways, or not at all; the end of a sentence."""


class _Loader(yaml.SafeLoader):
    """PyYAML's parser, from text to nodes; what they mean is for `_Values` to say."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # PyYAML's stubs say nothing
        tag, line = getattr(event, "tag", None), event.start_mark.line + 1
        if tag is not None:
            raise _DoubtError(f"the tag {tag} on line {line}: leave it out, and quote what is text")
        if isinstance(event, yaml.AliasEvent):
            # A few that stand in one another are more than any memory holds.
            raise _DoubtError(
                f"the alias *{event.anchor} on line {line}: write out what it stands for, or quote "
                "it if it is text"
            )
        return super().compose_node(parent, index)


class _Values:
    """What nodes mean.

    Args:
        spelled: as in `read`.
    """

    def __init__(self, spelled: Callable[[str], str]) -> None:
        self._spelled = spelled

    def of(self, node: yaml.Node) -> Any:
        """The value of a node.

        Raises:
            _DoubtError: it has none beyond doubt.
        """
        if isinstance(node, yaml.ScalarNode):
            return node.value if node.style is not None else _plain(node.value, _line(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node)
        return [self.of(one) for one in node.value]

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        values: dict[str, Any] = {}
        given: dict[str, yaml.ScalarNode] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _DoubtError(f"a key that is no word, on line {_line(key_node)}: write a word")
            key = self._spelled(key_node.value)
            if key in given:
                raise _DoubtError(_twice(given[key], key_node))
            given[key] = key_node
            values[key] = self.of(value_node)
        return values


def _twice(first: yaml.ScalarNode, second: yaml.ScalarNode) -> str:
    one, other = first.value, second.value
    keys = (
        f"the key {one} twice" if one == other else f"{one} and {other}, two spellings of one key"
    )
    return f"{keys}, on lines {_line(first)} and {_line(second)}: leave one of them out"


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _plain(text: str, line: int) -> Any:
    """What a word without quotes means."""
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if text.lower() in _AMBIGUOUS:
        raise _DoubtError(
            f"{text} on line {line}, which some readers of YAML take for a boolean and others for "
            f'text: write true or false, or "{text}" in quotes'
        )
    if _INTEGER.fullmatch(text):
        return _number(WrittenInt, text, line)
    if _FLOAT.fullmatch(text):
        return _number(WrittenFloat, text, line)
    return _NOT_FINITE.get(text.lower(), text)


def _number[N: (WrittenInt, WrittenFloat)](kind: Callable[[str], N], text: str, line: int) -> N:
    try:
        number = kind(text)
    except ValueError:  # Python reads no thousands of digits.
        number = None
    if number is None or abs(number) == math.inf:
        raise _DoubtError(
            f"the number {text[:20]} on line {line}, which is too large to read: write a smaller "
            "one, or quote it if it is text"
        )
    return number
