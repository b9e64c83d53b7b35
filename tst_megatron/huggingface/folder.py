"""A folder that transformers loads: one as it is, or made of a checkpoint for a while.

The one idea: what scores a model, or lets it write, knows one kind of model, a folder of
transformers'; a checkpoint becomes one first. A process of its own makes it, and Megatron is in
none that loads it.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tst_megatron.errors import UserError

CONFIG = "config.json"


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
            said = done.stderr.strip().splitlines()
            raise UserError(said[-1].removeprefix("error: ") if said else "the export failed")
        if done.stderr:
            sys.stderr.write(done.stderr)
        yield out


def load_model(folder: Path, dtype: Any = None, device: str = "cpu") -> Any:
    """A folder's model, with every weight in its place.

    Args:
        folder: of a model.
        dtype: of its weights; None for the folder's own.
        device: that it is put on.

    Raises:
        UserError: it cannot be loaded, or is not whole.
    """
    from transformers import AutoModelForCausalLM

    try:
        model, told = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto" if dtype is None else dtype, output_loading_info=True
        )
    # A folder can be anything, and so fails in any way.
    except Exception as error:
        raise UserError(
            f"{folder} is no model that transformers loads: {' '.join(str(error).split())[:300]}"
        ) from None
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if told.get(what):
            names = sorted(str(one) for one in told[what])
            raise UserError(
                f"{folder} is not whole or is another model than its {CONFIG} says: "
                f"{what.replace('_', ' ')} {', '.join(names[:3])}"
            )
    return model.to(device).eval()
