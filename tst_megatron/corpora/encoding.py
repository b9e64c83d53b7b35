"""Documents to ids: what every tokenizer backend gives, whatever library is behind it.

The one idea: ids travel as one flat array for many documents, never as lists of Python ints.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Encoded:
    """The ids of several documents, one after another.

    Attributes:
        ids: ``[tokens]``, of any integer dtype, without end-of-document tokens.
        lengths: ``[documents]``, int64, tokens of each; 0 for a document without any.
    """

    ids: npt.NDArray[np.integer[Any]]
    lengths: npt.NDArray[np.int64]


class Encoder(Protocol):
    """One way of turning documents into ids. Made in one process and used in its forked children.

    Attributes:
        name: of the library that writes the ids.
        version: of that library.
    """

    name: str
    version: str

    def encode(self, documents: Sequence[Any]) -> Encoded:
        """Encode documents on the calling thread alone.

        Args:
            documents: strings; or, where ids are read as they are, sequences of ints or strings of
                ints with spaces between.

        Raises:
            ValueError: a document cannot be encoded; the message says why.
        """
        ...
