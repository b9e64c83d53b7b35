"""What transformers' ``AutoTokenizer`` makes of a folder, found out in a process of its own.

transformers imports torch, which takes seconds and hundreds of megabytes, where it only finds it.
In a process of its own it does not: nothing of torch is needed to read a tokenizer. Where both are
imported already, the folder is read here.
"""

import json
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

_FAILED = 3


@dataclass(frozen=True)
class AutoTokenizerOf:
    """A tokenizer as transformers encodes with it, after what Megatron adds to it.

    Attributes:
        tokenizer: of the library beneath.
        eos_token: that transformers has for it, or its separator; None without either.
    """

    tokenizer: Tokenizer
    eos_token: str | None


class UnloadableError(Exception):
    """transformers does not load the folder; the message is its own, in a line."""


def load(folder: Path) -> AutoTokenizerOf:
    """Load a folder as Megatron's ``HuggingFaceTokenizer`` does.

    Raises:
        UnloadableError: transformers does not.
    """
    found = _found(folder) if "transformers" in sys.modules else _found_by_another(folder)
    tokenizer = Tokenizer.from_str(found["tokenizer"])
    # Not in its JSON: whether special tokens in a text are text.
    tokenizer.encode_special_tokens = found["splits_special"]
    return AutoTokenizerOf(tokenizer, found["eos_token"])


def _found_by_another(folder: Path) -> dict[str, Any]:
    """`_found`, of another process."""
    command = [sys.executable, "-m", __name__, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == _FAILED:
        raise UnloadableError(done.stdout)
    if done.returncode:
        raise RuntimeError(f"{__name__} ended with code {done.returncode}: {done.stderr[-2000:]}")
    # Libraries print what they like before.
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _found(folder: Path) -> dict[str, Any]:
    """What `AutoTokenizerOf` is made of, as JSON's types.

    Raises:
        UnloadableError: transformers does not load the folder.
    """
    from transformers import AutoTokenizer

    try:
        # No code of the folder's own, and no question whether it may run.
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # A configuration can name anything.
        raise UnloadableError(" ".join((str(error) or repr(error)).split())[:200]) from None
    eos_token = tokenizer.eos_token or tokenizer.sep_token
    _add_special_tokens(tokenizer)
    tokenizer("")  # Takes truncation and padding out, as every call does.
    return {
        "tokenizer": tokenizer.backend_tokenizer.to_str(),
        "eos_token": eos_token,
        "splits_special": bool(getattr(tokenizer, "split_special_tokens", False)),
    }


def _main(folder: Path) -> int:
    warnings.simplefilter("ignore")
    sys.modules["torch"] = None  # type: ignore[assignment]  # What makes an import fail.
    try:
        found = _found(folder)
    except UnloadableError as error:
        print(error, end="")
        return _FAILED
    print(json.dumps(found))
    return 0


def _add_special_tokens(tokenizer: Any) -> None:
    """What Megatron's ``HuggingFaceTokenizer`` adds to what it has loaded."""
    special: dict[str, Any] = {"additional_special_tokens": []}
    if tokenizer.sep_token is None and tokenizer.eos_token:
        special["sep_token"] = tokenizer.eos_token
    elif tokenizer.eos_token is None and tokenizer.sep_token:
        special["eos_token"] = tokenizer.sep_token
    if tokenizer.bos_token is None and tokenizer.cls_token:
        special["bos_token"] = tokenizer.cls_token
    elif tokenizer.cls_token is None and tokenizer.bos_token:
        special["cls_token"] = tokenizer.bos_token
    tokenizer.add_special_tokens(special)


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1])))
