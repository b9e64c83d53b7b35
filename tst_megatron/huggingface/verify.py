"""Whether an exported model computes what Megatron computes.

The one idea: both libraries read their own files, in a process each, and get the same ids of real
text; what is compared is the logits, in float32, so that only the mapping can differ.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tst_megatron.backends import DEVICE_VARIABLE
from tst_megatron.corpora.index_file import read_index
from tst_megatron.corpora.sources import all_prefixes
from tst_megatron.errors import UserError
from tst_megatron.huggingface import megatron_logits, transformers_logits
from tst_megatron.huggingface.provenance import Compared

TOLERANCE = 1e-4
"""Of logits, as a share of the largest where that is above 1."""
_SEQUENCES, _LENGTH = 4, 256


def compare(
    checkpoint: Path, folder: Path, dtype: str, ids: np.ndarray[Any, Any], text: str
) -> Compared:
    """Compare the logits of a checkpoint and of the folder that was made of it.

    Args:
        checkpoint: folder of its step.
        folder: exported.
        dtype: that the weights were exported in.
        ids: ``[b, L]``, int64.
        text: what they are of, in words.

    Raises:
        UserError: one of the libraries does not load its files.
    """
    with tempfile.TemporaryDirectory(prefix="tst-megatron-") as scratch:
        tokens, megatrons, other = (Path(scratch) / f"{name}.npy" for name in ("ids", "m", "t"))
        np.save(tokens, ids)
        _run(megatron_logits.__name__, str(checkpoint), dtype, str(tokens), str(megatrons))
        _run(transformers_logits.__name__, str(folder), str(tokens), str(other))
        ours = np.load(other)
        theirs = np.load(megatrons)[..., : ours.shape[-1]]
    scale = float(np.abs(theirs).max())
    return Compared(
        largest=float(np.abs(theirs - ours).max()),
        scale=scale,
        agreeing=float((theirs.argmax(-1) == ours.argmax(-1)).mean()),
        positions=ids.size,
        text=text,
        bound=TOLERANCE * max(1.0, scale),
    )


def _run(module: str, *words: str) -> None:
    command = [sys.executable, "-m", module, *words]
    # In float32 on the CPU, where there is a GPU, too: what is compared is the mapping.
    environment = os.environ | {DEVICE_VARIABLE: "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        said = [line for line in done.stderr.strip().splitlines() if line.strip()]
        raise UserError(
            f"--verify cannot compute logits ({module.rpartition('.')[2].replace('_', ' ')}): "
            f"{said[-1][:300] if said else f'code {done.returncode}'}"
        )


def ids_to_compare(
    args: Any, vocab_size: int, max_positions: int, text_ids: Sequence[int] | None
) -> tuple[np.ndarray[Any, Any], str]:
    """Ids for both models: of a text, else of the run's corpus, else drawn.

    Args:
        args: of the checkpoint.
        vocab_size: V.
        max_positions: that the model was made for.
        text_ids: of a text that the user names.

    Returns:
        ``[b, L]``, int64, and what they are of.

    Raises:
        UserError: the text is too short.
    """
    length = min(_LENGTH, max_positions)
    found: np.ndarray[Any, Any] | None
    if text_ids is not None:
        found, text = np.asarray(text_ids, dtype=np.int64), "the text that was named"
    else:
        found, text = _of_corpus(args, length)
    if found is None:
        rng = np.random.default_rng(0)
        found, text = rng.integers(0, vocab_size, (_SEQUENCES * length,)), "ids drawn at random"
    if len(found) < length:
        length = len(found)
    if length < 2:
        raise UserError("--verify-text has too little text to compare on: name a longer file")
    sequences = min(_SEQUENCES, len(found) // length)
    return found[: sequences * length].reshape(sequences, length), text


def _of_corpus(args: Any, length: int) -> tuple[np.ndarray[Any, Any] | None, str]:
    """The first ids of the run's first corpus; None where it is not here."""
    try:
        prefixes = all_prefixes(args)
    except (UserError, AttributeError):
        return None, ""
    for prefix in prefixes:
        path = Path(f"{prefix}.bin")
        if not path.is_file():
            continue
        try:
            index = read_index(prefix)
        except UserError:
            continue
        found = np.fromfile(path, dtype=index.dtype, count=_SEQUENCES * length)
        if len(found) >= length:
            return found.astype(np.int64), f"the corpus {Path(prefix).name}"
    return None, ""
