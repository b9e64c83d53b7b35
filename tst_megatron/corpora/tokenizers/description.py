"""Which tokenizer a path or a word names, and what Megatron needs to train with it.

The one idea: a tokenizer is read once, into the bytes of the files that Megatron will read and the
library's own object made from those bytes. What encodes here is then what training loads, whatever
becomes of the user's files in between.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl

from tst_megatron.corpora.compression.folder import RECORD_FILE, is_compressor
from tst_megatron.corpora.tokenizers import huggingface, tiktoken_vocabulary
from tst_megatron.corpora.tokenizers.proxy_folder import is_compressed_form
from tst_megatron.errors import UserError
from tst_megatron.files import write_whole

if TYPE_CHECKING:
    from tst_megatron.corpora.compression.compressor import Compressor

_NULL = "null:"
_SENTENCEPIECE_FILE = "tokenizer.model"
_BYTES = "bytes"


@dataclass(frozen=True)
class TokenizerDescription:
    """A tokenizer as Megatron will load it.

    Attributes:
        kind: ``sentencepiece``, ``huggingface``, ``tiktoken``, ``compressor``, ``proxy`` or
            ``null``.
        source: as the user named it.
        files: by name, the files that Megatron reads; none for ``null``.
        sha256: of the file that defines the tokenizer, or of GPT-2's two; of ``source`` where there
            is none.
        vocab_size: number of ids, as Megatron's tokenizer counts them.
        eod: the id that ends a document, as Megatron's tokenizer has it; None if it has none.
        megatron_flags: for training; ``{folder}`` stands for the folder of the files.
        special_tokens: strings that the tokenizer treats, or might treat, as more than text.
        library: the object of the library that defines the ids; of a compressor its code, of a
            proxy what compresses; None for ``null``.
    """

    kind: str
    source: str
    files: Mapping[str, bytes] = field(repr=False)
    sha256: str
    vocab_size: int
    eod: int | None
    megatron_flags: tuple[str, ...]
    special_tokens: tuple[str, ...] = field(repr=False)
    library: Any = field(repr=False, compare=False)

    @property
    def reads(self) -> Literal["text", "ids"]:
        """``ids`` where documents are ids already, else ``text``."""
        return "ids" if self.kind == "null" else "text"

    def copy_to(self, folder: Path) -> None:
        """Write the files that Megatron needs, each whole or not at all; the same each time.

        Raises:
            OSError: the folder or a file cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_whole(folder / name, content)


def describe(spec: str, eod_token: str | None = None) -> TokenizerDescription:
    """Read a tokenizer.

    Args:
        spec: a SentencePiece model; a Hugging Face ``tokenizer.json`` or a folder with one; GPT-2's
            two files as ``VOCABULARY,MERGES`` or a folder with ``vocab.json`` and ``merges.txt``; a
            tiktoken vocabulary as Megatron reads it, in JSON or as ranks, with options after a
            question mark (``vocab.json?pattern=v1&num_special_tokens=1000&vocab_size=131072``); a
            compressor's folder; the compressed form in a proxy's; ``bytes``, unless there is a file
            of that name; or ``null:VOCAB_SIZE``, ``null:VOCAB_SIZE:eod=ID``, for ids that are there
            already.
        eod_token: the token that ends a document, where a Hugging Face tokenizer names none or
            another.

    Raises:
        UserError: there is no such tokenizer, it cannot be read, or Megatron could not train with
            it.
    """
    description = _null(spec) if spec.startswith(_NULL) else _from_files(spec, eod_token)
    if eod_token is not None and description.kind != "huggingface":
        raise UserError(
            f"--eod-token {eod_token} is for Hugging Face tokenizers, and {spec} is of kind "
            f"{description.kind}, whose end-of-document token Megatron takes from the tokenizer "
            "itself: leave it out"
        )
    return description


def _from_files(spec: str, eod_token: str | None) -> TokenizerDescription:
    path, options = Path(spec), {}
    if not path.exists() and "," in spec:
        return _gpt2(spec, *_two_files(spec), eod_token)
    if not path.exists():
        name, _, query = spec.partition("?")
        path, options = Path(name), dict(parse_qsl(query, keep_blank_values=True))
    if not path.exists():
        if spec == _BYTES:
            return _bytes(spec)
        raise UserError(f"the tokenizer {path} is missing: there is no such file or folder")
    if options and not path.is_file():
        raise UserError(f"the tokenizer {path} is a folder, which takes no options after a ?")
    try:
        if is_compressed_form(path):
            return _read_proxy(spec, path)
        if is_compressor(path):
            return _read_compressor(spec, path)
        if path.is_dir():
            return _huggingface(spec, huggingface.read(path, eod_token))
        content = path.read_bytes()
        start = content[:64].lstrip()[:1]
        if start == b"[" or tiktoken_vocabulary.looks_like_ranks(content):
            return _tiktoken(spec, content, options)
        if options:
            raise UserError(f"the tokenizer {path} takes no options: it is no tiktoken vocabulary")
        if start == b"{":
            return _huggingface(spec, huggingface.read(path, eod_token))
        return _sentencepiece(spec, content)
    except OSError as error:
        raise UserError(f"the tokenizer {spec} cannot be read: {error.strerror}") from None


def _sentencepiece(spec: str, content: bytes) -> TokenizerDescription:
    import sentencepiece

    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=content)
    except (RuntimeError, ValueError):
        raise UserError(
            f"the tokenizer {spec} is neither a SentencePiece model nor a Hugging Face "
            "tokenizer.json nor a tiktoken vocabulary"
        ) from None
    eod = processor.eos_id()
    ids = range(processor.vocab_size())
    # Pieces that are not made by merging: control, unknown, unused, bytes, the user's own symbols.
    special = [i for i in ids if not _is_normal(processor, i)]
    return TokenizerDescription(
        kind="sentencepiece",
        source=spec,
        files={_SENTENCEPIECE_FILE: content},
        sha256=sha256(content).hexdigest(),
        vocab_size=len(ids),
        eod=eod if eod >= 0 else None,
        megatron_flags=(
            *("--tokenizer-type", "SentencePieceTokenizer"),
            *("--tokenizer-model", f"{{folder}}/{_SENTENCEPIECE_FILE}"),
        ),
        special_tokens=tuple(processor.id_to_piece(i) for i in special),
        library=processor,
    )


def _is_normal(processor: Any, token: int) -> bool:
    # The user's own symbols are of a type that Python cannot ask for: their score is 0, as that of
    # no merge but the first.
    return not (
        processor.is_control(token)
        or processor.is_unknown(token)
        or processor.is_unused(token)
        or processor.is_byte(token)
        or processor.get_score(token) == 0.0
    )


def _two_files(spec: str) -> tuple[Path, Path]:
    """The paths around one of the commas: the one with most files beside it, as paths have some."""
    parts = spec.split(",")
    cuts = [
        (Path(",".join(parts[:number])), Path(",".join(parts[number:])))
        for number in range(1, len(parts))
    ]
    return max(cuts, key=lambda cut: sum(path.is_file() for path in cut))


def _gpt2(spec: str, vocabulary: Path, merges: Path, eod_token: str | None) -> TokenizerDescription:
    try:
        return _huggingface(spec, huggingface.read_gpt2(vocabulary, merges, eod_token))
    except OSError as error:
        raise UserError(
            f"the tokenizer file {error.filename} cannot be read: {error.strerror}"
        ) from None


def _huggingface(spec: str, read: huggingface.HuggingFaceFiles) -> TokenizerDescription:
    ids = read.tokenizer.get_vocab(with_added_tokens=True).values()
    if max(ids) >= (count := len(ids)):
        raise UserError(
            f"the tokenizer {spec} has {count:,} tokens and among them id {max(ids):,}, and "
            "Megatron makes an embedding for as many ids as there are tokens: number them without "
            "gaps"
        )
    return TokenizerDescription(
        kind="huggingface",
        source=spec,
        files=read.files,
        sha256=sha256(read.defining).hexdigest(),
        vocab_size=count,
        eod=read.tokenizer.token_to_id(read.eod_token),
        megatron_flags=(
            *("--tokenizer-type", "HuggingFaceTokenizer"),
            *("--tokenizer-model", "{folder}"),
        ),
        special_tokens=tuple(
            token.content for token in read.tokenizer.get_added_tokens_decoder().values()
        ),
        library=read.tokenizer,
    )


def _tiktoken(spec: str, content: bytes, options: dict[str, str]) -> TokenizerDescription:
    vocabulary = tiktoken_vocabulary.read(spec, content, options)
    file = tiktoken_vocabulary.VOCABULARY_FILE
    return TokenizerDescription(
        kind="tiktoken",
        source=spec,
        files={file: vocabulary.content},
        sha256=sha256(vocabulary.content).hexdigest(),
        vocab_size=vocabulary.vocab_size,
        eod=vocabulary.special_tokens.index(tiktoken_vocabulary.EOD_TOKEN),
        megatron_flags=(
            *("--tokenizer-type", "TikTokenizer"),
            *("--tokenizer-model", f"{{folder}}/{file}"),
            *("--tiktoken-pattern", vocabulary.pattern),
            *("--tiktoken-num-special-tokens", str(len(vocabulary.special_tokens))),
            *("--vocab-size", str(vocabulary.vocab_size)),
        ),
        special_tokens=vocabulary.special_tokens,
        library=vocabulary.encoding,
    )


def _bytes(spec: str) -> TokenizerDescription:
    from tst_megatron.corpora.compression.compressor import Compressor, Settings

    return _compressor(spec, Compressor(Settings(_BYTES, 8)))


def _read_compressor(spec: str, folder: Path) -> TokenizerDescription:
    # Compiled loops take a second to load.
    from tst_megatron.corpora.compression.compressor import read_compressor

    return _compressor(spec, read_compressor(folder))


def _read_proxy(spec: str, folder: Path) -> TokenizerDescription:
    # It is made of another tokenizer, so it needs this module.
    from tst_megatron.corpora.tokenizers.proxy import read_proxy

    return read_proxy(spec, folder)


def _compressor(spec: str, compressor: "Compressor") -> TokenizerDescription:
    defining = compressor.tokenizer_files.get(huggingface.TOKENIZER_FILE)
    flags = (
        (
            *("--tokenizer-type", "NullTokenizer"),
            *("--vocab-size", str(compressor.vocab_size)),
            *("--null-tokenizer-eod-id", str(compressor.code.num_ids)),
        )
        if defining is None
        else (
            *("--tokenizer-type", "HuggingFaceTokenizer"),
            *("--tokenizer-model", "{folder}"),
        )
    )
    return TokenizerDescription(
        kind="compressor",
        source=spec,
        files=compressor.files,
        sha256=sha256(compressor.files[RECORD_FILE] if defining is None else defining).hexdigest(),
        vocab_size=compressor.vocab_size,
        eod=compressor.code.num_ids,
        megatron_flags=flags,
        special_tokens=(),
        library=compressor,
    )


def _null(spec: str) -> TokenizerDescription:
    size, *rest = spec.removeprefix(_NULL).split(":")
    eod = rest[0].removeprefix("eod=") if len(rest) == 1 and rest[0].startswith("eod=") else None
    if not size.isdecimal() or (rest and (eod is None or not eod.isdecimal())):
        raise UserError(
            f"the tokenizer {spec} is not of the form null:VOCAB_SIZE or null:VOCAB_SIZE:eod=ID"
        )
    vocab_size = int(size)
    end = vocab_size - 1 if eod is None else int(eod)
    if not 0 <= end < vocab_size:
        raise UserError(
            f"the tokenizer {spec} has no id {end}: its {vocab_size} ids begin at 0, so name an "
            "end-of-document id among them"
        )
    return TokenizerDescription(
        kind="null",
        source=spec,
        files={},
        sha256=sha256(f"{_NULL}{vocab_size}:eod={end}".encode()).hexdigest(),
        vocab_size=vocab_size,
        eod=end,
        megatron_flags=(
            *("--tokenizer-type", "NullTokenizer"),
            *("--vocab-size", str(vocab_size)),
            *("--null-tokenizer-eod-id", str(end)),
        ),
        special_tokens=(),
        library=None,
    )
