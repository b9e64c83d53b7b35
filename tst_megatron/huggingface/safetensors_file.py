"""A file of weights, written a tensor at a time.

The one idea: safetensors' own writer wants all tensors of a file at once, which is five gigabytes
where one is enough. The format is a length, a table in JSON and the bytes, and shapes and dtypes
are known before any byte is: so the table is written first, and each tensor as it comes
(https://github.com/huggingface/safetensors, "Format"). What reads it is their library.
"""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from tst_megatron.files import replace_when_whole

DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_ALIGNMENT = 8


@dataclass(frozen=True)
class Listed:
    """A tensor that will be in a file.

    Attributes:
        name: of it.
        shape: of it.
        dtype: of `DTYPES`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def write(path: Path, listed: Iterable[Listed], tensors: Iterator[torch.Tensor]) -> None:
    """Write a file, whole or not at all.

    Args:
        path: of the file.
        listed: what will be in it.
        tensors: themselves, in this order; each is asked for once the one before is written.

    Raises:
        OSError: it cannot be written.
    """
    listed = tuple(listed)
    with replace_when_whole(path) as file:
        file.write(_header(listed))
        for expected, tensor in zip(listed, tensors, strict=True):
            assert (tuple(tensor.shape), tensor.dtype) == (expected.shape, expected.dtype)
            # As bytes: numpy has no bfloat16.
            file.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)


def _header(listed: Iterable[Listed]) -> bytes:
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for one in listed:
        place = [begin, begin + one.size]
        table[one.name] = {
            "dtype": DTYPES[one.dtype],
            "shape": list(one.shape),
            "data_offsets": place,
        }
        begin += one.size
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
