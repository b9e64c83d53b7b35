"""Documents to ids: what an encoder is, and those that give Megatron's ids by definition, which are
the libraries that Megatron itself calls.

The one idea: ids travel as one flat array for many documents, never as lists of Python ints; each
encoder here is the library's own batch call and the shortest way from what it returns to one array,
on one thread, since the workers that call it are processes.
"""

import platform
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tst_megatron.corpora.tokenizers.description import TokenizerDescription
from tst_megatron.errors import UserError


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


_ID = np.int32


def reference_encoder(description: TokenizerDescription) -> Encoder:
    """The encoder whose ids are those of Megatron's tokenizer for the description's flags."""
    if description.kind == "sentencepiece":
        return SentencePieceEncoder(description.library)
    if description.kind == "huggingface":
        return HuggingFaceEncoder(description.library)
    if description.kind == "tiktoken":
        return TiktokenEncoder(description.library)
    if description.kind == "compressor":
        return CompressorEncoder(description.library)
    if description.kind == "proxy":
        proxy = description.library
        around: Encoder = proxy.around(reference_encoder(proxy.inner))
        return around
    return IdsEncoder(description.vocab_size)


@contextmanager
def explained(documents: Sequence[Any]) -> Iterator[None]:
    """Say of documents that a library does not take what is wrong with them."""
    try:
        yield
    except TypeError:
        check_text(documents)
        raise


def check_text(documents: Sequence[Any]) -> None:
    """Check that documents are text that UTF-8 can hold.

    Raises:
        ValueError: one is not.
    """
    for document in documents:
        if not isinstance(document, str):
            raise ValueError(f"it is {type(document).__name__}, not text")
        try:
            document.encode()
        except UnicodeEncodeError as error:
            code = ord(document[error.start])
            raise ValueError(
                f"character {error.start + 1} is the lone surrogate U+{code:04X}, which is no text"
            ) from None


def joined(parts: Sequence[npt.NDArray[Any]]) -> Encoded:
    """The ids of documents that were encoded one by one."""
    lengths = np.fromiter(map(len, parts), dtype=np.int64, count=len(parts))
    return Encoded(np.concatenate(parts) if parts else np.empty(0, _ID), lengths)


class SentencePieceEncoder:
    """sentencepiece's ``encode``, without what would mark a beginning or an end."""

    name = "sentencepiece"

    def __init__(self, processor: Any) -> None:
        self.version = version(self.name)
        self._processor = processor

    def encode(self, documents: Sequence[Any]) -> Encoded:
        """See `tst_megatron.corpora.tokenizers.encoders.Encoder`."""
        with explained(documents):
            return joined(
                self._processor.encode(list(documents), num_threads=1, return_type="numpy")
            )


class HuggingFaceEncoder:
    """tokenizers' ``encode_batch`` with the post-processor's special tokens, as Megatron has it."""

    name = "tokenizers"

    def __init__(self, tokenizer: Any) -> None:
        self.version = version(self.name)
        self._tokenizer = tokenizer

    def encode(self, documents: Sequence[Any]) -> Encoded:
        """See `tst_megatron.corpora.tokenizers.encoders.Encoder`."""
        with explained(documents):
            encodings = self._tokenizer.encode_batch_fast(documents)
        # The library has lists of ints alone; this is the shortest way out of one.
        return joined([np.frombuffer(array("I", one.ids), np.uint32) for one in encodings])


class TiktokenEncoder:
    """tiktoken's ``encode`` with special tokens allowed in text, as Megatron has it."""

    name = "tiktoken"

    def __init__(self, encoding: Any) -> None:
        self.version = version(self.name)
        self._encoding = encoding

    def encode(self, documents: Sequence[Any]) -> Encoded:
        """See `tst_megatron.corpora.tokenizers.encoders.Encoder`."""
        check_text(documents)
        return joined(
            [self._encoding.encode_to_numpy(text, allowed_special="all") for text in documents]
        )


class CompressorEncoder:
    """A compressor of this project's: text is its UTF-8 bytes, whatever it says.

    Its name has the machine in it where floating-point numbers take part, so that a build that was
    begun on one is not gone on with on another.
    """

    def __init__(self, compressor: Any) -> None:
        package = "tst-megatron"
        self.name = package if compressor.is_exact else f"{package} on {_this_machine()}"
        self.version = version(package)
        self._code = compressor.code

    def encode(self, documents: Sequence[Any]) -> Encoded:
        """See `tst_megatron.corpora.tokenizers.encoders.Encoder`."""
        check_text(documents)
        encoded: Encoded = self._code.encode([document.encode() for document in documents])
        return encoded

    def check(self, documents: Sequence[str]) -> None:
        """Check that documents come back.

        Raises:
            UserError: one does not.
        """
        encoded = self.encode(documents)
        parts = np.split(encoded.ids, np.cumsum(encoded.lengths)[:-1]) if len(documents) else []
        if self._code.decode(parts) != [document.encode() for document in documents]:
            raise UserError(
                "the compressor's ids do not become the text again: its byte model gives other "
                "numbers for other batches on this machine, so use one of counts, or a table"
            )


def _this_machine() -> str:
    """What floating-point numbers depend on."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor()
    return f"{platform.node()}, {device or platform.machine()}, torch {torch.__version__}"


class IdsEncoder:
    """Ids that are there already: numbers, or strings of them with one space between."""

    name = "null"

    def __init__(self, vocab_size: int) -> None:
        self.version = version("tst-megatron")
        self._vocab_size = vocab_size

    def encode(self, documents: Sequence[Any]) -> Encoded:
        """See `tst_megatron.corpora.tokenizers.encoders.Encoder`."""
        encoded = joined([self._ids(document) for document in documents])
        ids = encoded.ids
        if ids.size and not (ids.min() >= 0 and ids.max() < self._vocab_size):
            wrong = ids[(ids < 0) | (ids >= self._vocab_size)][0]
            raise ValueError(
                f"it holds id {wrong}, and the vocabulary's ids are 0 to {self._vocab_size - 1}"
            )
        return encoded

    def _ids(self, document: Any) -> npt.NDArray[np.int64]:
        if isinstance(document, str):
            return _numbers(document)
        ids = np.asarray(document)
        if ids.size == 0:
            return np.empty(0, np.int64)
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
            raise ValueError("it is neither a list of whole numbers nor a string of them")
        return ids.astype(np.int64)


def _numbers(text: str) -> npt.NDArray[np.int64]:
    digits = text.replace(" ", "")
    if not digits:
        return np.empty(0, np.int64)
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError("it is not whole numbers, from 0 up, with spaces between")
    return np.fromstring(text, dtype=np.int64, sep=" ")
