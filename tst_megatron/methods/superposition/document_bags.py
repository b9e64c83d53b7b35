"""An indexed corpus seen as bags that end with their documents.

The one idea: to Megatron's index of samples these bags are what tokens are. It knows a corpus by
the lengths of its documents and by ``get``; here both count in bags, and all that Megatron does
with documents and samples (shuffling, epochs, cutting, caching) holds for bags as it stands.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from megatron.core.datasets.indexed_dataset import IndexedDataset

from tst_megatron.corpora.parts import units_of_documents
from tst_megatron.methods.superposition.bags import EMPTY


class DocumentBags:
    """What ``GPTDataset`` asks of an ``IndexedDataset``, counted in bags.

    Args:
        tokens: the corpus.
        bag_size: s.
    """

    def __init__(self, tokens: IndexedDataset, bag_size: int) -> None:
        self.tokens = tokens
        self.bag_size = bag_size

    @property
    def path_prefix(self) -> str:
        """Of the corpus; mock data have none."""
        return str(self.tokens.path_prefix)

    @property
    def sequence_lengths(self) -> npt.NDArray[np.int32]:
        """Bags of every document, int32; made anew, since only the making of an index asks."""
        return units_of_documents(self.tokens.sequence_lengths, self.bag_size)

    def get(self, idx: int, offset: int = 0, length: int | None = None) -> npt.NDArray[np.int64]:
        """Bags of one document: ``[n, s]``, int64, `EMPTY` after its last token.

        Args:
            idx: the document.
            offset: its first bag that is wanted.
            length: n; None for all that follow.
        """
        num_tokens = int(self.tokens.sequence_lengths[idx])
        begin, end = offset * self.bag_size, num_tokens
        if length is not None:
            end = min(end, begin + int(length) * self.bag_size)
        text: Any = self.tokens.get(idx, offset=begin, length=end - begin)
        num_bags = -(-(end - begin) // self.bag_size)
        bags = np.full(num_bags * self.bag_size, EMPTY, dtype=np.int64)
        bags[: end - begin] = text
        return bags.reshape(num_bags, self.bag_size)
