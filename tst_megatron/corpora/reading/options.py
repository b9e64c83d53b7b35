"""How documents are found in a file."""

from dataclasses import dataclass
from typing import Literal

from tst_megatron.corpora.reading.where import Where

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
