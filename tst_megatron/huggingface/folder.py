"""A folder that transformers loads: one as it is, or made of a checkpoint for a while.

The one idea: what scores a model, or lets it write, knows one kind of model, a folder of
transformers'; a checkpoint becomes one first. A process of its own makes it, and Megatron is in
none that loads it.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tst_megatron.errors import UserError
from tst_megatron.huggingface.own_code import runs_own_code
from tst_megatron.huggingface.provenance import warning_of

CONFIG = "config.json"
_SENTENCE = "tst-megatron: error: "  # As `errors` begins what a user is told.
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
FACTS_FILE = "tst-megatron.json"
"""Of an exported folder: what a program asks of the run."""


@contextmanager
def model_folder(source: Path, step: int | None = None) -> Iterator[Path]:
    """A folder that transformers loads.

    Args:
        source: such a folder; or a run's ``--save`` folder, or a step in it, which is exported to a
            temporary folder that is gone afterwards.
        step: of a run's folder; default the tracker's.

    Raises:
        UserError: it is neither, or cannot be exported.
    """
    if (source / CONFIG).is_file():
        if step is not None:
            raise UserError(
                f"--step {step} beside {source}, which is a model and no run: leave the flag out"
            )
        if (warning := warning_of(read_facts(source))) is not None:
            sys.stderr.write(f"warning: {warning}\n")
        yield source
        return
    if not source.is_dir():
        raise UserError(
            f"there is no folder {source}: name an exported model, a run's --save folder or a step "
            "in it"
        )
    with tempfile.TemporaryDirectory(prefix="tst-megatron-") as folder:
        out = Path(folder) / "model"
        words = ["export", str(source), "--output", str(out), "--quiet"]
        words += [] if step is None else ["--step", str(step)]
        done = subprocess.run(
            [sys.executable, "-m", "tst_megatron", *words],
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            raise UserError(_why_not_exported(source, done.stderr, done.returncode))
        if done.stderr:
            sys.stderr.write(done.stderr)
        yield out


def _why_not_exported(source: Path, said: str, code: int) -> str:
    """What the exporting process said: its sentence, or its last line where it fell over."""
    last = (said.strip().splitlines() or [f"it ended with code {code}"])[-1]
    sentence = last.removeprefix(_SENTENCE)
    if sentence == last:
        return f"{source} cannot be exported: {last[:300]}"
    if "--tokenizer" in sentence:  # Flags of the other command.
        return f"{sentence}; these are flags of tst-megatron export, so export {source} first"
    return sentence


def read_facts(folder: Path) -> dict[str, Any]:
    """What `FACTS_FILE` of a folder says; empty of a folder that was not exported here.

    Raises:
        UserError: it is damaged.
    """
    file = folder / FACTS_FILE
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}): export the model again") from None
    if not isinstance(found, dict):
        raise UserError(f"{file} holds no object: export the model again")
    return found


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has any file of one; a model that reads ids has none."""
    return any((folder / name).is_file() for name in _TOKENIZER_FILES)


def load_tokenizer(folder: Path) -> Any:
    """A folder's tokenizer, as transformers' own classes have it.

    Raises:
        UserError: it cannot be loaded, or the model is code of somebody else's.
    """
    from transformers import AutoTokenizer

    try:
        # Of its configuration it is asked which model it is for; nothing of its own is run.
        config = load_config(folder) if runs_own_code(folder) else None
        return AutoTokenizer.from_pretrained(
            folder, config=config, local_files_only=True, trust_remote_code=False
        )
    except UserError:
        raise
    except Exception as error:  # transformers raises what its loaders raise.
        raise unloadable(folder, "tokenizer", error) from None


def load_config(folder: Path) -> Any:
    """A folder's configuration.

    Raises:
        UserError: it cannot be loaded, or the model is code of somebody else's.
    """
    from transformers import AutoConfig

    is_trusted = runs_own_code(folder)
    try:
        return AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=is_trusted
        )
    except Exception as error:  # A configuration can name anything.
        raise unloadable(folder, "configuration", error) from None


def load_model(folder: Path, dtype: Any = "auto", device: Any = "cpu") -> Any:
    """A folder's model, with every weight in its place.

    Args:
        folder: of a model.
        dtype: of its weights, torch's or its name; ``auto`` for the folder's own.
        device: that it is put on.

    Raises:
        UserError: it cannot be loaded, is not whole, or is code of somebody else's.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    is_trusted = runs_own_code(folder)
    disable_progress_bar()  # It tells of weights, in the midst of what is said of the model.
    try:
        model, told = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            output_loading_info=True,
            trust_remote_code=is_trusted,
        )
    except Exception as error:  # Whatever is in a file.
        raise unloadable(folder, "model", error) from None
    if lacking := sorted((*told["missing_keys"], *map(str, told["mismatched_keys"]))):
        # transformers would draw them at random, with no more than a warning.
        raise UserError(
            f"the model in {folder} is not whole: its weights lack {lacking[0]}"
            f"{f' and {len(lacking) - 1} more' if len(lacking) > 1 else ''}, or have it in another "
            "shape than config.json says"
        )
    return model.to(device).eval()


def unloadable(folder: Path, what: str, error: Exception) -> UserError:
    """What is said of a folder's model or tokenizer that transformers does not load."""
    reason = " ".join((str(error) or repr(error)).split())[:200]
    return UserError(f"the {what} in {folder} cannot be loaded by transformers: {reason}")
