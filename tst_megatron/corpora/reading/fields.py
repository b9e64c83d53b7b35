"""A field of a parsed record by its path."""

from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any

from tst_megatron.corpora.reading.batches import UnusableError

_KINDS = {
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}


def kind_of(value: Any) -> str:
    """What a parsed value is, in JSON's words."""
    return _KINDS.get(type(value), type(value).__name__)


def field_reader(path: str) -> Callable[[Mapping[str, Any]], Any]:
    """A function from a record to what is at a path of it.

    The function raises `UnusableError` where the record has no such field. A field whose whole name
    is the path comes before one that is nested.
    """
    steps = path.split(".")

    def follow(record: Mapping[str, Any]) -> Any:
        if path in record:
            return record[path]
        value: Any = record
        for done, step in enumerate(steps):
            if not isinstance(value, dict):
                parent = ".".join(steps[:done])
                raise UnusableError(f'no field "{path}"', f'"{parent}" is {kind_of(value)}')
            if step not in value:
                parent = ".".join(steps[:done])
                raise UnusableError(
                    f'no field "{path}"', f'"{parent}" has no "{step}"' if parent else ""
                )
            value = value[step]
        return value

    if len(steps) > 1:
        return follow
    direct = itemgetter(path)

    def read(record: Mapping[str, Any]) -> Any:
        try:
            return direct(record)
        except KeyError:
            return follow(record)

    return read
