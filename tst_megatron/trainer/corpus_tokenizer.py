"""The tokenizer of a run is that of its corpora: from their manifests, or held against them."""

import argparse
import json
from hashlib import sha256
from pathlib import Path

from tst_megatron.corpora.blend import is_remote
from tst_megatron.corpora.manifest import TokenizerRecord, megatron_flags, read_manifest
from tst_megatron.corpora.sources import all_prefixes
from tst_megatron.corpora.tokenizers.defining_file import HUGGING_FACE_FILE, defining_file
from tst_megatron.corpora.tokenizers.gpt2_files import tokenizer_json
from tst_megatron.errors import UserError

# A type without a --tokenizer-model, as a recipe may have it, is no tokenizer yet.
_NEEDS_A_MODEL = (
    "GPTSentencePieceTokenizer",
    "HuggingFaceTokenizer",
    "Llama2Tokenizer",
    "SentencePieceTokenizer",
    "TikTokenizer",
)


def corpus_tokenizer_flags(args: argparse.Namespace) -> list[str]:
    """Megatron's flags for the tokenizer that every corpus of a run was indexed with.

    Args:
        args: Megatron's flags and ours, not validated.

    Returns:
        None of them where the flags name a tokenizer, or a corpus does not know its own.

    Raises:
        UserError: the corpora were indexed with different tokenizers, or with another one than
            ``--tokenizer-model`` or ``--vocab-file``; or a corpus's own has gone.
    """
    if args.mock_data or args.sft:
        return []
    records = {prefix: _record(prefix) for prefix in all_prefixes(args)}
    known = {prefix: record for prefix, record in records.items() if record is not None}
    _check_same(known)
    if args.tokenizer_model is not None:
        _check_model(args.tokenizer_model, known)
        return []
    if args.vocab_file is not None and args.merge_file is not None:
        _check_two_files(Path(args.vocab_file), Path(args.merge_file), known)
    is_named = args.vocab_file is not None or args.tokenizer_type not in (None, *_NEEDS_A_MODEL)
    if is_named or not known or len(known) < len(records):
        return []
    prefix, record = next(iter(known.items()))
    if record.folder is not None and not (folder := Path(prefix).parent / record.folder).is_dir():
        raise UserError(
            f"the tokenizer of the corpus {prefix} is missing: there is no folder {folder}; put it "
            "back, or name the tokenizer with Megatron's flags"
        )
    return megatron_flags(prefix, record)


def tokenizer_sha256(args: argparse.Namespace) -> str | None:
    """SHA-256 of what a run's tokenizer holds, as manifests have it; None where it is not known.

    That of the corpora's manifests, else of the file that defines the tokenizer, which of a Hugging
    Face folder is its ``tokenizer.json``, as is that of a hub's tokenizer where it was downloaded.

    Args:
        args: Megatron's arguments; their tokenizer is that of the corpora
            (`corpus_tokenizer_flags`).
    """
    prefixes = [] if args.mock_data or args.sft else all_prefixes(args)
    known = {record.sha256 for prefix in prefixes if (record := _record(prefix)) is not None}
    if len(known) == 1:
        return known.pop()
    file = None if args.tokenizer_model is None else defining_file(args.tokenizer_model)
    return None if file is None else sha256(file.read_bytes()).hexdigest()


def _record(prefix: str) -> TokenizerRecord | None:
    manifest = None if is_remote(prefix) else read_manifest(prefix)
    return None if manifest is None else manifest.tokenizer


def _check_same(records: dict[str, TokenizerRecord]) -> None:
    first: tuple[str, TokenizerRecord] | None = None
    for prefix, record in records.items():
        first = first or (prefix, record)
        for what, ours, theirs in (
            ("different tokenizers", record.sha256, first[1].sha256),
            ("different ends of a document", record.eod, first[1].eod),
            ("different settings of a tokenizer", record.megatron_flags, first[1].megatron_flags),
        ):
            if ours != theirs:
                raise UserError(
                    f"the corpora {first[0]} and {prefix} were indexed with {what}, and a run has "
                    "one: index one of them again"
                )


def _check_model(model: str, records: dict[str, TokenizerRecord]) -> None:
    file = defining_file(model) if records else None
    if file is None:
        return
    found = sha256(file.read_bytes()).hexdigest()
    for prefix, record in records.items():
        if record.sha256 != found:
            raise UserError(
                f"the corpus {prefix} was indexed with another tokenizer than --tokenizer-model "
                f"{model}: leave the tokenizer's flags out, and the corpus's own is used"
            )


def _check_two_files(vocabulary: Path, merges: Path, records: dict[str, TokenizerRecord]) -> None:
    """GPT-2's tokenizer has several files that mean the same, so what is in them is compared."""
    if not records or not (vocabulary.is_file() and merges.is_file()):
        return
    named = _tokens_and_merges(tokenizer_json(vocabulary, merges))
    for prefix, record in records.items():
        folder = None if record.folder is None else Path(prefix).parent / record.folder
        file = None if folder is None else folder / HUGGING_FACE_FILE
        own = _tokens_and_merges(file.read_bytes()) if file is not None and file.is_file() else None
        if own != named:
            raise UserError(
                f"the corpus {prefix} was indexed with another tokenizer than --vocab-file "
                f"{vocabulary} and --merge-file {merges}: leave the tokenizer's flags out, and the "
                "corpus's own is used"
            )


def _tokens_and_merges(content: bytes) -> tuple[dict[str, int], list[tuple[str, ...]]]:
    """Of a ``tokenizer.json``, whose merges are pairs or, of long ago, texts with a space."""
    model = json.loads(content)["model"]
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model.get("merges", []))
    return model.get("vocab"), [tuple(pair) for pair in pairs]
