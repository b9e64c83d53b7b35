"""Whether what is in a field can be a document."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tst_megatron.corpora.reading.batches import UnusableError
from tst_megatron.corpora.reading.fields import kind_of
from tst_megatron.corpora.reading.options import ReadOptions

BYTES_OF_ID = 8
"""That a list of ids is taken to have, to say how long it is."""


def document_checker(options: ReadOptions) -> Callable[[Any], tuple[Any, int]]:
    """A function from what is in the field to the document and its bytes.

    The function raises `UnusableError` for what cannot be a document, or is too long a one.
    """
    limit = options.max_document_bytes
    where = f'field "{options.field}"'

    def check_text(value: Any) -> tuple[Any, int]:
        if type(value) is not str:
            raise UnusableError(f"{where} is {kind_of(value)}, not a string")
        num_bytes = len(value) if value.isascii() else len(value.encode())
        if not 0 < num_bytes <= limit:
            raise _size_error(num_bytes, limit)
        return value, num_bytes

    def check_ids(value: Any) -> tuple[Any, int]:
        if type(value) is str:
            check_text(value)
            return value, 0
        if type(value) is list:
            value = _ids(value, where)
        elif not isinstance(value, np.ndarray):
            raise UnusableError(f"{where} is {kind_of(value)}, not a list of ids")
        if not 0 < BYTES_OF_ID * len(value) <= limit:
            raise _size_error(len(value), limit)
        return value, 0

    return check_text if options.reads == "text" else check_ids


def _ids(values: list[Any], where: str) -> npt.NDArray[np.integer[Any]]:
    try:
        ids = np.array(values) if values else np.array([], np.int64)
    except ValueError:  # Lists of several lengths are in it.
        ids = np.array(None)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise UnusableError(f"{where} holds something other than ids")
    return ids


def _size_error(num_bytes: int, limit: int) -> UnusableError:
    return too_long(limit) if num_bytes else UnusableError("the document is empty")


def too_long(limit: int) -> UnusableError:
    """A document of more than ``limit`` bytes."""
    return UnusableError(f"the document is longer than {limit:,} bytes")


def decoded(content: bytes) -> str:
    """Bytes as text.

    Raises:
        UnusableError: they are not UTF-8.
    """
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UnusableError("not valid UTF-8", f"byte {error.start + 1:,} of the record") from None
