"""A folder with another Megatron in it, which Python finds before the installed one.

``megatron`` is a package without an ``__init__``: of two places that have it, the first one's
``megatron.core`` and ``megatron.training`` are taken. What the wheel has compiled, the index of
samples (``core/datasets/helpers_cpp``), a checkout has not; it is taken over.
"""

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

PARTS = ("core", "training")
_VERSION = re.compile(r"\d+(\.\d+)+\w*")


class OverlayError(Exception):
    """There is no such Megatron; the message is a sentence."""


def lay_over(wanted: str, folder: Path, uv: Path) -> Path:
    """Make the folder; returns what goes into PYTHONPATH.

    Args:
        wanted: a checkout of Megatron-LM, or a version of megatron-core on a package index.
        folder: made anew.
        uv: the program, asked for a version.

    Raises:
        OverlayError: there is no such Megatron.
    """
    source = Path(wanted)
    if source.exists() and folder.resolve().is_relative_to(source.resolve()):
        raise OverlayError(f"{folder} is in {wanted}, and is made anew: give another --out")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if _VERSION.fullmatch(wanted):
        command = [str(uv), "pip", "install", "--quiet", "--python", sys.executable]
        command += ["--no-deps", "--target", str(folder), f"megatron-core=={wanted}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no reason was given"])[-1]
            raise OverlayError(f"megatron-core {wanted} cannot be installed: {last.strip()}")
        return folder
    if not all((source / "megatron" / part).is_dir() for part in PARTS):
        raise OverlayError(
            f"{wanted} is neither a version nor a checkout of Megatron-LM: it has no "
            "megatron/core and megatron/training"
        )
    for part in PARTS:
        shutil.copytree(
            source / "megatron" / part,
            folder / "megatron" / part,
            ignore=shutil.ignore_patterns("__pycache__", "*.so"),
        )
    for compiled in _compiled():
        shutil.copy2(compiled, folder / "megatron/core/datasets" / compiled.name)
    return folder


def _compiled() -> list[Path]:
    spec = find_spec("megatron.core")
    places = [] if spec is None else list(spec.submodule_search_locations or ())
    return [one for place in places for one in (Path(place) / "datasets").glob("helpers_cpp*.so")]
