"""Run where the kit was unpacked: which of its packages this image needs, as a ``PYTHONPATH``.

``python paths.py KIT`` prints it. The standard library alone, and no torch: of packages that the
image has, its own are used, but for Megatron-Core, which is of the version that is tested.
"""

import os
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_ALWAYS = "megatron-core"
TRANSFORMER_ENGINE = "transformer-engine"
FOR_TORCH = "FOR-TORCH"
"""Beside Transformer Engine: the torch that it was built for, and the compute capability."""


# Without these nothing runs, and the kit would be too large with them.
_OF_THE_IMAGE = (
    *("torch", "numpy", "packaging", "psutil", "pyyaml", "rich", "jinja2", "matplotlib"),
    *("pyarrow", "sentencepiece", "tensorboard", "tokenizers", "transformers"),
)
_PYTHON = (3, 12)


def refusal() -> str:
    """Why this image will not do; empty where it will."""
    if sys.version_info[:2] != _PYTHON:
        found, wanted = (".".join(map(str, v)) for v in (sys.version_info[:2], _PYTHON))
        return f"its packages are for Python {wanted}, and this is {found}: set PYTHON"
    if lacking := [package for package in _OF_THE_IMAGE if not _has(package)]:
        return f"this image lacks {', '.join(lacking)}: install them, or take another image"
    return ""


def needed(kit: Path) -> tuple[list[Path], list[str]]:
    """Folders to put on the path, and what to say of those that are left out."""
    project, packages = kit / "project", kit / "packages"
    chosen, said = [project], []
    for folder in sorted(packages.iterdir()):
        own = folder.name
        if own == TRANSFORMER_ENGINE:
            why_not = _why_no_transformer_engine(folder)
            if why_not:
                said.append(f"Transformer Engine of the kit is not used: {why_not}")
                continue
        elif own != _ALWAYS and _has(own):
            continue
        chosen.append(folder)
    own = packages / TRANSFORMER_ENGINE
    if own in chosen and (error := _does_not_import(chosen)):
        chosen.remove(own)
        said.append(f"Transformer Engine of the kit is not used: it does not import: {error}")
    return chosen, said


def _has(package: str) -> bool:
    with suppress(PackageNotFoundError):
        return bool(version(package))
    return False


def _why_no_transformer_engine(folder: Path) -> str:
    """Why the parts in the kit cannot be used; empty where they can."""
    torch, capability = (folder / FOR_TORCH).read_text().split()
    if _has(TRANSFORMER_ENGINE) or _has("transformer-engine-torch"):
        return "the image has its own"
    found = version("torch").split("+")[0]
    if not found.startswith(f"{torch}."):
        return f"it was built for torch {torch}, and this is {found}"
    words = ("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
    with suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout
        others = {line.strip() for line in said.splitlines()} - {capability}
        if others:
            return f"it was built for compute capability {capability}, and this is {max(others)}"
    return ""


def _does_not_import(folders: list[Path]) -> str:
    """What Transformer Engine says when it is imported; where it fails, Megatron would fail."""
    words = [sys.executable, "-W", "ignore", "-c", "import torch, transformer_engine.pytorch"]
    path = os.pathsep.join(map(str, folders))
    done = subprocess.run(
        words, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    return (done.stderr.strip().splitlines() or ["no reason"])[-1] if done.returncode else ""


def main(kit: Path) -> int:
    """Print the path, or leave with code 2; what is left out goes to standard error."""
    if why_not := refusal():
        print(f"kit: {why_not}", file=sys.stderr)
        return 2
    chosen, said = needed(kit)
    for line in said:
        print(f"kit: {line}", file=sys.stderr)
    print(os.pathsep.join(map(str, chosen)))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
