"""Text of questions as the run's own tokenizer has it.

The one idea: ids are those that the exported model's tokenizer would make, so that a question has
the same ids asked of either; and they are made once, as the same questions are asked again.
"""

from array import array
from typing import Any

from megatron.core.tokenizers.text.libraries import HuggingFaceTokenizer


class RunText:
    """Makes ids of text.

    Args:
        tokenizer: Megatron's, of the run.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        library = tokenizer._tokenizer
        # Hugging Face's alone put something around a text.
        self._framing = library.tokenizer if isinstance(library, HuggingFaceTokenizer) else None
        self._made: dict[tuple[str, bool], array[int]] = {}
        self.document_start = self._document_start()
        """What a document's text came after in training; None where nothing did."""

    def ids(self, text: str, adds_special: bool) -> list[int]:
        """Ids of a text.

        Args:
            text: of any length.
            adds_special: with what the tokenizer puts around a text by itself.
        """
        key = text, adds_special
        if key not in self._made:
            self._made[key] = array("i", self._encoded(text, adds_special))
        return self._made[key].tolist()

    def _document_start(self) -> int | None:
        """The last that the tokenizer puts before a text or, where that is nothing, what ended the
        document before: as of the exported model's `TokenizerFiles`."""
        if self._framing is not None:
            framed = self._framing("a", return_special_tokens_mask=True, verbose=False)
            if before := [*framed["special_tokens_mask"], 0].index(0):
                return int(framed["input_ids"][before - 1])
        end = getattr(self._tokenizer, "eod", None)
        return None if end is None or end < 0 else int(end)

    def _encoded(self, text: str, adds_special: bool) -> list[int]:
        if self._framing is None:
            ids: list[int] = self._tokenizer.tokenize(text)
            return ids
        # A text that spells out its beginning has it once.
        begins = self._framing.bos_token
        adds_special = adds_special and not (begins and text.startswith(begins))
        encoded = self._framing(text, add_special_tokens=adds_special, verbose=False)
        return [int(one) for one in encoded["input_ids"]]
