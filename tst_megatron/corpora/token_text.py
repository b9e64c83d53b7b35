"""Ids as text for the eye: whole documents, and single tokens as they stand in a text.

The one idea: what a library makes of one token alone is not what the token adds to a text (a space
before a word, bytes of a character), so single tokens are asked for with that in mind.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tst_megatron.corpora.compression.hugging_face import EOD_TOKEN
from tst_megatron.corpora.manifest import TokenizerRecord, megatron_flags
from tst_megatron.corpora.tokenizers.description import TokenizerDescription, describe
from tst_megatron.corpora.tokenizers.proxy_folder import FORM as COMPRESSED_FORM
from tst_megatron.errors import UserError

if TYPE_CHECKING:
    from tst_megatron.corpora.compression.codes import Code
    from tst_megatron.corpora.compression.compressor import Compressor
    from tst_megatron.corpora.tokenizers.proxy import Proxy

_CUT = "<cut>"
_WITHIN = "…"
"""Stands for a further id of a window, whose text stands for its first."""
_SPACE = "▁"  # As SentencePiece writes it in pieces.


class TokenText:
    """Ids as text.

    Args:
        description: the tokenizer; None where it is not known, so that ids are shown as numbers.

    Attributes:
        is_known: whether ids become text.
    """

    def __init__(self, description: TokenizerDescription | None) -> None:
        self._description = description
        self.is_known = description is not None and description.library is not None
        self._piece = _piece_of(description)

    def document(self, ids: Sequence[int]) -> str:
        """The text of many ids, as the library has it; numbers with spaces between without one.

        Control characters but tabs and ends of lines are escaped: they are not the terminal's.
        """
        if self._description is None or not self.is_known:
            return " ".join(map(str, ids))
        library, known = self._description.library, self._description.vocab_size
        if self._description.kind == "compressor":
            return _shown(_of_compressor(library, ids))
        if self._description.kind == "proxy":
            return "".join(map(self.piece, ids))
        if any(not 0 <= one < known for one in ids):
            return "".join(map(self.piece, ids))
        text = (
            library.decode(list(ids), skip_special_tokens=False)
            if self._description.kind == "huggingface"
            else library.decode(list(ids))
        )
        return _shown(text)

    def pieces(self, ids: Sequence[int], begin: int | None = None) -> list[str]:
        """What each of some ids in a row adds to a text.

        Of windows of several ids the first has the window's text. Where windows begin is known
        from where the ids do, else from ends of documents among them; of others each id is a
        number.

        Args:
            ids: of one document or several.
            begin: how many ids of its document are before the first; None where not known.
        """
        found = list(map(self.piece, ids))
        if self._description is not None and self._description.kind == "compressor":
            compressor = self._description.library
            if compressor.code.ids_a_piece > 1:
                _put_windows(compressor.code, ids, begin, found)
        return found

    def piece(self, one: int) -> str:
        """What one id adds to a text; ends of lines and all that cannot be printed are escaped."""
        if self._description is not None and not 0 <= one < self._description.vocab_size:
            return f"<id {one}>"
        return "".join(map(_visible, self._piece(one)))


def recorded_tokenizer(prefix: Path, record: TokenizerRecord) -> TokenizerDescription:
    """The tokenizer of a corpus, from the folder beside it.

    Raises:
        UserError: it is not there, or is another one.
    """
    flags = megatron_flags(prefix, record)
    value = dict(zip(flags[::2], flags[1::2], strict=False)).get
    spec = value("--tokenizer-model") or f"null:{record.vocab_size}:eod={record.eod}"
    if record.kind == "compressor" and record.folder is not None:
        spec = str(prefix.parent / record.folder)
    if record.kind == "proxy" and record.folder is not None:
        spec = str(prefix.parent / record.folder / COMPRESSED_FORM)
    if record.kind == "tiktoken":
        spec += (
            f"?pattern={value('--tiktoken-pattern')}"
            f"&num_special_tokens={value('--tiktoken-num-special-tokens')}"
            f"&vocab_size={value('--vocab-size')}"
        )
    description = describe(spec)
    if description.sha256 != record.sha256:
        raise UserError(
            f"the tokenizer {spec} is not the one that {prefix} was indexed with: put that one "
            "back, or name it with --tokenizer"
        )
    return description


def _shown(text: str) -> str:
    return "".join(c if c in "\t\n" else _visible(c) for c in text)


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode()


def _piece_of(description: TokenizerDescription | None) -> Callable[[int], str]:
    if description is None or description.library is None:
        return str
    library = description.library
    if description.kind == "compressor":
        return lambda one: _id_of_compressor(library, one)
    if description.kind == "proxy":
        inner = TokenText(library.inner)
        return lambda one: _id_of_proxy(library, inner, one)
    if description.kind == "tiktoken":
        return lambda one: _text(library.decode_single_token_bytes(one))
    if description.kind == "sentencepiece":
        return lambda one: (
            _text(bytes([int(library.id_to_piece(one)[3:-1], 16)]))
            if library.is_byte(one)
            else library.id_to_piece(one).replace(_SPACE, " ")
        )
    # Decoders join tokens by rules of their own: what a token adds shows after another one.
    before = library.encode("a", add_special_tokens=False).ids[:1]
    start = library.decode(before, skip_special_tokens=False)
    return lambda one: library.decode([*before, one], skip_special_tokens=False).removeprefix(start)


def _id_of_proxy(proxy: "Proxy", inner: TokenText, one: int) -> str:
    from tst_megatron.corpora.tokenizers.proxy import COMPRESSED_MARK, NUM_BYTES, RAW_MARK

    if one < NUM_BYTES:
        return _text(bytes([one]))
    ids = proxy.ids
    marks = {ids.eod: EOD_TOKEN, ids.raw: RAW_MARK, ids.compressed: COMPRESSED_MARK}
    return marks[one] if one in marks else inner.piece(one - NUM_BYTES)


def _id_of_compressor(compressor: "Compressor", one: int) -> str:
    if one == compressor.code.num_ids:
        return EOD_TOKEN
    if not compressor.is_a_string_an_id:
        return f"<{one:0{2 * compressor.settings.token_bits // 8}x}>"
    return _text(compressor.code.pieces(np.array([one]))[0][1])


def _put_windows(code: "Code", ids: Sequence[int], begin: int | None, found: list[str]) -> None:
    """Put the text of windows of several ids in the places of their first ids."""
    width = code.ids_a_piece
    ends = [number for number, one in enumerate(ids) if one == code.num_ids]
    for first, end in pairwise([-1, *ends, len(ids)]):
        at = first + 1
        if at == 0 and begin is not None:
            at = -begin % width
        elif at == 0:
            # A document's windows are whole: where it ends tells where they begin.
            at = end % width if ends else end
        while at + width <= end:
            _put_window(code, ids[at : at + width], at, found)
            at += width
        if end == len(ids) and at < end:
            found[at:end] = [_CUT, *[_WITHIN] * (end - at - 1)]


def _put_window(code: "Code", ids: Sequence[int], at: int, found: list[str]) -> None:
    try:
        (_, data), *_ = code.pieces(np.asarray(ids, np.int64))
    except (ValueError, IndexError):
        return  # Of no window: another compressor's.
    text = "".join(map(_visible, _text(data)))
    found[at : at + len(ids)] = [text, *[_WITHIN] * (len(ids) - 1)]


def _of_compressor(compressor: "Compressor", ids: Sequence[int]) -> str:
    """Documents one after another, the last of which may be cut."""
    code, documents, text = compressor.code, np.asarray(ids, np.int64), []
    ends = np.flatnonzero(documents == code.num_ids)
    for document in np.split(documents, ends):
        if len(document) and document[0] == code.num_ids:
            text.append(EOD_TOKEN)
            document = document[1:]
        try:
            pieces = code.pieces(document)
        except ValueError:  # It began before these ids.
            text.append(" ".join(map(str, document)))
            continue
        text.append(_text(b"".join(piece for _, piece in pieces)))
        if sum(number for number, _ in pieces) < len(document):
            text.append(_CUT)
    return "".join(text)


def _text(data: bytes) -> str:
    """Bytes that are a part of a character are escaped."""
    return data.decode(errors="backslashreplace")
