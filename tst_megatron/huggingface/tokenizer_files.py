"""The tokenizer of an export: the files with which transformers gives a corpus's own ids.

The one idea: no conversion is believed. transformers loads the very files and encodes strings that
tokenizers are known to differ on, and documents of the corpus, beside the library that Megatron
calls; what comes out otherwise is named, and whoever exports decides.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from tst_megatron.corpora.tokenizers.awkward_text import awkward_strings
from tst_megatron.corpora.tokenizers.description import TokenizerDescription
from tst_megatron.corpora.tokenizers.encoders import reference_encoder
from tst_megatron.errors import UserError
from tst_megatron.files import write_whole
from tst_megatron.huggingface.tokenizer_json import from_sentencepiece, from_tiktoken

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
MODEL_CONFIG_FILE = "config.json"
_SENTENCEPIECE_FILE = "tokenizer.model"  # As llama.cpp wants it.
# Adds nothing to what the tokenizer.json does; of any transformers.
_CLASS = "PreTrainedTokenizerFast"
_SHOWN = 24  # Characters of a text, and ids, in a sentence.
_IDS_SHOWN = 6
_SHORT = 600
_KINDS_SHOWN = 3


@dataclass(frozen=True)
class SpecialIds:
    """Ids for ``config.json`` and ``generation_config.json``; None where there is none.

    Attributes:
        bos: what a text begins with: what the tokenizer puts before it or, where that is nothing,
            what ends the document before it, as the model has seen.
        eos: what ends a document, Megatron's ``eod``.
        pad: fills a batch up.
    """

    bos: int | None
    eos: int | None
    pad: int | None


@dataclass(frozen=True)
class Difference:
    """A kind of string that transformers makes other ids of, or other text of its ids.

    Attributes:
        kind: what the first such string is.
        text: the string.
        corpus: its ids as in the corpus.
        ours: as transformers has them.
        number: of all such strings.
    """

    kind: str
    text: str = field(repr=False)
    corpus: tuple[int, ...] = field(repr=False)
    ours: tuple[int, ...] = field(repr=False)
    number: int

    def __str__(self) -> str:
        if self.corpus == self.ours:
            return f"{self.kind} ({self.text[:_SHOWN]!r} has the same ids, which become other text)"
        both = enumerate(zip(self.corpus, self.ours, strict=False))
        shorter = min(len(self.corpus), len(self.ours))
        at = next((i for i, (one, other) in both if one != other), shorter)
        theirs, ours = (list(ids[at : at + _IDS_SHOWN]) for ids in (self.corpus, self.ours))
        return (
            f"{self.kind} ({self.text[:_SHOWN]!r}: from id {at + 1} on {ours}, and in the corpus "
            f"{theirs})"
        )


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer as transformers loads it; nothing is written yet.

    Attributes:
        files: by name; none for a tokenizer whose text is ids already.
        special: ids for the model's configuration.
        before: ids that the tokenizer puts before a text, in the corpus and here.
        after: likewise after it.
        checked: strings that were encoded by both libraries.
        differences: kinds of string that they differ on.
    """

    files: Mapping[str, bytes] = field(repr=False)
    special: SpecialIds
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    checked: int = 0
    differences: tuple[Difference, ...] = ()

    def check_equal(self) -> None:
        """Check that text has the corpus's ids.

        Raises:
            UserError: some has not; the sentence names kinds of it.
        """
        if self.differences:
            shown = "; ".join(map(str, self.differences[:_KINDS_SHOWN]))
            more = len(self.differences) - _KINDS_SHOWN
            raise UserError(
                "transformers would not encode all text as the corpus was, but differ on "
                f"{shown}{f'; and {more} kinds more' if more > 0 else ''}: allow it if the text "
                "that the model will read has none of that, or leave the tokenizer out"
            )

    @property
    def document_start(self) -> int | None:
        """The id that a document's text came after: the last that the tokenizer put before it or,
        where that is nothing, what ended the document before."""
        return self.before[-1] if self.before else self.special.eos

    def documents(self) -> str:
        """A sentence on how a document begins and ends in what the model was trained on."""
        if not self.files:
            return "There is no tokenizer: the model reads and writes ids."
        begins = _listed(self.before) or "nothing before its text"
        ends = [*self.after, *([] if self.special.eos is None else [self.special.eos])]
        return f"A document has {begins}, and {_listed(ends) or 'nothing'} after it."

    def write_to(self, folder: Path) -> None:
        """Write the files, each whole or not at all.

        Raises:
            OSError: one cannot be written.
        """
        for name, content in self.files.items():
            write_whole(folder / name, content)


def _listed(ids: Sequence[int]) -> str:
    what = "id" if len(ids) == 1 else "ids"
    return f"{what} {', '.join(map(str, ids))}" if ids else ""


def tokenizer_files(
    description: TokenizerDescription,
    documents: Sequence[str] = (),
    model_config: Mapping[str, Any] | None = None,
) -> TokenizerFiles:
    """Make the files, and hold what transformers makes of them against the corpus's library.

    Args:
        description: the tokenizer that Megatron trained with.
        documents: of the corpus.
        model_config: of the model, whose ``config.json`` lies beside the tokenizer and has a say in
            how transformers loads it.

    Raises:
        UserError: the tokenizer cannot be converted.
    """
    if description.kind == "null" or _is_ids_alone(description):
        return TokenizerFiles({}, SpecialIds(description.eod, description.eod, None))
    named = [*awkward_strings(description.special_tokens)]
    named += [(f"document {i} of the sample", text) for i, text in enumerate(documents, 1)]
    if description.kind == "compressor":
        # Which the library reads in a time that grows with the square of the text.
        named = [(kind, text[:_SHORT]) for kind, text in named]
    found: list[tuple[Mapping[str, bytes], Any, tuple[Difference, ...]]] = []
    for files in _candidates(description):
        loaded = _loaded(description, files, model_config)
        found.append((files, loaded, _differences(description, loaded, named)))
        if not found[-1][2]:
            break
    files, loaded, differences = min(found, key=lambda one: sum(d.number for d in one[2]))
    before, after = _frame(description)
    bos = before[0] if before else description.eod
    return TokenizerFiles(
        files,
        SpecialIds(bos, description.eod, loaded.pad_token_id),
        before,
        after,
        len(named),
        differences,
    )


def _is_ids_alone(description: TokenizerDescription) -> bool:
    """A compressor whose windows no library reads."""
    return description.kind == "compressor" and not description.library.is_a_string_an_id


def _candidates(description: TokenizerDescription) -> Iterator[Mapping[str, bytes]]:
    """Files that may do, the best first."""
    if description.kind == "sentencepiece":
        yield _of_sentencepiece(description)
    elif description.kind == "tiktoken":
        yield _of_tiktoken(description)
    elif description.kind == "compressor":
        yield description.library.tokenizer_files
    else:
        own = {name: one for name, one in description.files.items() if name != MODEL_CONFIG_FILE}
        yield own
        # Files that say no class are loaded by the model's, and this model is another one.
        config = json.loads(own.get(CONFIG_FILE, b"{}")) | {"tokenizer_class": _CLASS}
        yield own | {
            TOKENIZER_FILE: description.library.to_str(pretty=False).encode(),
            CONFIG_FILE: _json(config),
        }


def _of_sentencepiece(description: TokenizerDescription) -> dict[str, bytes]:
    (content,) = description.files.values()
    processor = description.library
    end = None if description.eod is None else processor.id_to_piece(description.eod)
    pad = None if processor.pad_id() < 0 else processor.id_to_piece(processor.pad_id())
    tokenizer = from_sentencepiece(description.source, content)
    named = {"unk_token": processor.id_to_piece(processor.unk_id()), "pad_token": pad}
    # A control piece in a text is text, as it was in the corpus.
    config = _config(end, named) | {"split_special_tokens": True}
    return _converted(tokenizer, config) | {_SENTENCEPIECE_FILE: content}


def _of_tiktoken(description: TokenizerDescription) -> dict[str, bytes]:
    special = description.special_tokens
    tokenizer = from_tiktoken(description.source, description.library, special)
    end = None if description.eod is None else special[description.eod]
    return _converted(tokenizer, _config(end, {"unk_token": "<unk>", "pad_token": "<pad>"}))


def _config(end: str | None, named: Mapping[str, str | None]) -> dict[str, Any]:
    """Nothing is added to a text, as nothing was; what begins one is what ended that before."""
    tokens = {"bos_token": end, "eos_token": end, **named}
    return {
        "tokenizer_class": _CLASS,
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        **{name: token for name, token in tokens.items() if token is not None},
    }


def _converted(tokenizer: Tokenizer, config: Mapping[str, Any]) -> dict[str, bytes]:
    return {TOKENIZER_FILE: tokenizer.to_str().encode(), CONFIG_FILE: _json(config)}


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _loaded(
    description: TokenizerDescription,
    files: Mapping[str, bytes],
    model_config: Mapping[str, Any] | None,
) -> Any:
    """What transformers makes of the files, as whoever has the export will load them."""
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        if model_config is not None:
            (Path(folder) / MODEL_CONFIG_FILE).write_bytes(_json(model_config))
        try:
            return AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # A configuration can name anything.
            raise UserError(
                f"the tokenizer {description.source} cannot be loaded by transformers: "
                f"{' '.join((str(error) or repr(error)).split())[:200]}"
            ) from None


def _differences(
    description: TokenizerDescription, loaded: Any, named: Sequence[tuple[str, str]]
) -> tuple[Difference, ...]:
    """What the two libraries differ on, a string of each kind.

    Ids have to become the text again where the corpus's library makes it of them.
    """
    texts = [text for _, text in named]
    encoded = reference_encoder(description).encode(texts)
    ends = encoded.lengths.cumsum()[:-1]
    corpus = [part.tolist() for part in np.split(encoded.ids, ends)]
    ours = loaded(texts, verbose=False)["input_ids"]
    # Of frames that are not to be in the text; elsewhere no special token is in ids but as text.
    skips = description.kind == "huggingface"
    library = description.library
    found: dict[str, Difference] = {}
    for (kind, text), theirs, own in zip(named, corpus, ours, strict=True):
        if theirs == own and (
            _decoded(library, theirs, skips) != text
            or loaded.decode(own, skip_special_tokens=skips) == text
        ):
            continue
        number = found[kind].number + 1 if kind in found else 1
        first = found.get(kind, Difference(kind, text, tuple(theirs), tuple(own), 1))
        found[kind] = Difference(kind, first.text, first.corpus, first.ours, number)
    return tuple(found.values())


def _decoded(library: Any, ids: list[int], skips: bool) -> str:
    return str(library.decode(ids, skip_special_tokens=True) if skips else library.decode(ids))


def _frame(description: TokenizerDescription) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the tokenizer puts before a text and after it; Hugging Face's alone do."""
    if description.kind != "huggingface":
        return (), ()
    framed = description.library.encode("a")
    marks = framed.special_tokens_mask
    if 0 not in marks:
        return tuple(framed.ids), ()
    begin, end = marks.index(0), len(marks) - marks[::-1].index(0)
    return tuple(framed.ids[:begin]), tuple(framed.ids[end:])
