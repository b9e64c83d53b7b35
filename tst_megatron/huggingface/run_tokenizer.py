"""Which tokenizer a checkpoint was trained with, and where it lies now.

The one idea: a path in a checkpoint is what somebody typed once, on another machine perhaps; what
is found, wherever, has to hold what the checkpoint remembers of its own.
"""

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tst_megatron.corpora.blend import is_remote
from tst_megatron.corpora.manifest import read_manifest
from tst_megatron.corpora.sources import all_prefixes
from tst_megatron.corpora.token_text import recorded_tokenizer
from tst_megatron.corpora.tokenizers.defining_file import HUGGING_FACE_FILE, defining_file
from tst_megatron.corpora.tokenizers.description import TokenizerDescription, describe
from tst_megatron.errors import UserError

_TIKTOKEN, _NULL = "TikTokenizer", "NullTokenizer"
_DATA_FLAGS = (
    *("data_path", "data_args_path", "per_split_data_args_path"),
    *("train_data_path", "valid_data_path", "test_data_path", "split", "blend"),
)
_DIGITS_SHOWN = 12


def find_tokenizer(args: Namespace, explicit: Path | None = None) -> TokenizerDescription | None:
    """Find a checkpoint's tokenizer.

    What the user names is taken; else what lies beside the run's corpora, else what the
    checkpoint's arguments name, relative to the working folder.

    Args:
        args: of the checkpoint; those of stock Megatron will do.
        explicit: what the user names, as `describe` takes it.

    Returns:
        None where there is nothing.

    Raises:
        UserError: what is there is another tokenizer, or cannot be read.
    """
    others = []
    for found in _candidates(args) if explicit is None else [_described(args, str(explicit))]:
        told = _another(found, args)
        if told is None:
            return found
        others.append(f"{found.source} {told}")
    if not others:
        return None
    raise UserError(
        f"the tokenizer {others[0]}: it is not the one that the model's corpus was indexed with, "
        "and its ids stand for other text; name that one with --tokenizer"
    )


def _candidates(args: Namespace) -> Iterator[TokenizerDescription]:
    for prefix in _prefixes(args):
        manifest = read_manifest(prefix)
        if manifest is None:
            continue
        folder = manifest.tokenizer.folder
        if folder is None or (Path(prefix).parent / folder).is_dir():
            yield recorded_tokenizer(Path(prefix), manifest.tokenizer)
    spec = _spec(args)
    if spec is not None:
        yield _described(args, spec)


def _prefixes(args: Namespace) -> list[str]:
    """The run's corpora; none where the files that list them are not here."""
    given = Namespace(**{name: getattr(args, name, None) for name in _DATA_FLAGS})
    try:
        return [prefix for prefix in all_prefixes(given) if not is_remote(prefix)]
    except UserError:
        return []


def _spec(args: Namespace) -> str | None:
    """What the arguments name, as `describe` takes it; None where it is not here."""
    kind, model = getattr(args, "tokenizer_type", None), getattr(args, "tokenizer_model", None)
    if kind == _NULL:
        size, eod = getattr(args, "vocab_size", None), getattr(args, "null_tokenizer_eod_id", None)
        ending = "" if eod is None else f":eod={eod}"
        return None if size is None else f"null:{size}{ending}"
    if model is None:
        two = [getattr(args, name, None) for name in ("vocab_file", "merge_file")]
        return ",".join(map(str, two)) if all(one and Path(one).is_file() for one in two) else None
    if Path(model).exists():
        return str(model)
    downloaded = defining_file(str(model))
    return str(downloaded.parent) if downloaded is not None else None


def _described(args: Namespace, spec: str) -> TokenizerDescription:
    """A tokenizer by its path, with the options that tiktoken's are trained under."""
    is_tiktoken = getattr(args, "tokenizer_type", None) == _TIKTOKEN
    if is_tiktoken and Path(spec).is_file() and Path(spec).name != HUGGING_FACE_FILE:
        options = {
            "pattern": getattr(args, "tiktoken_pattern", None),
            "num_special_tokens": getattr(args, "tiktoken_num_special_tokens", None),
            "vocab_size": getattr(args, "vocab_size", None),
        }
        given = [f"{name}={value}" for name, value in options.items() if value is not None]
        spec = f"{spec}?{'&'.join(given)}"
    return describe(spec)


def _another(found: TokenizerDescription, args: Any) -> str | None:
    """What makes a tokenizer certainly another one than the checkpoint's; None where nothing."""
    sha256 = getattr(args, "tokenizer_sha256", None)
    tokens = getattr(args, "tokenizer_tokens", None)
    rows = getattr(args, "padded_vocab_size", None)
    if sha256 is not None:
        if sha256 == found.sha256:
            return None
        return (
            f"has SHA-256 {found.sha256[:_DIGITS_SHOWN]}..., and the checkpoint's has "
            f"{sha256[:_DIGITS_SHOWN]}..."
        )
    if tokens is not None and tokens != found.vocab_size:
        return f"has {found.vocab_size:,} tokens, and the checkpoint's has {tokens:,}"
    if rows is not None and rows < found.vocab_size:
        return f"has {found.vocab_size:,} tokens, and the checkpoint has rows for {rows:,}"
    return None
