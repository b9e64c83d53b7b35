"""What is a document, and whether what stands in a field can be one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tst_megatron.corpora.reading.batches import UnusableError
from tst_megatron.corpora.reading.fields import Where, kind_of

MAX_DOCUMENT_BYTES = 256 << 20
_SPACE_OF_OTHER_FIELDS = 16 << 20


@dataclass(frozen=True)
class ReadOptions:
    """What is a document, and which are wanted.

    Attributes:
        field: that holds the document: a name, or a dotted path into nested objects. A name that
            has dots of its own is found as well.
        where: the records that are wanted; all, if None.
        text_documents: what is a document in a plain text file: all of it, or what stands between
            blank lines.
        reads: whether documents are text, or token ids that are there already: lists of integers,
            or text with integers and spaces.
        max_document_bytes: of the longest document that is taken, as UTF-8; eight bytes an id.
    """

    field: str = "text"
    where: Where | None = None
    text_documents: Literal["file", "blank-line"] = "file"
    reads: Literal["text", "ids"] = "text"
    max_document_bytes: int = MAX_DOCUMENT_BYTES

    @property
    def max_record_bytes(self) -> int:
        """Of a JSON record with such a document, escapes and other fields with it.

        What is longer is not held in memory.
        """
        return 2 * self.max_document_bytes + _SPACE_OF_OTHER_FIELDS


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
