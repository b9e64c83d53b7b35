"""The header of a ledger: everything a reader needs to know which run this was."""

import argparse
import hashlib
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import tst_megatron
from tst_megatron.corpora.compression.cost import cost_of_byte_model
from tst_megatron.corpora.manifest import manifest_path
from tst_megatron.corpora.sources import all_prefixes
from tst_megatron.corpora.split_text import SplitText
from tst_megatron.methods.method import Run
from tst_megatron.runs.facts import Parent
from tst_megatron.runs.flag_roles import Role
from tst_megatron.trainer.corpus_tokenizer import tokenizer_sha256

_PLAIN = (str, int, float, bool, type(None), list, tuple, dict)
# Arguments that are no plain values and still read the same in every run.
_WITH_A_NAME = (Enum, torch.dtype, Path)
_GIT_TIMEOUT_S = 10.0


def header_of(
    args: argparse.Namespace,
    run: Run,
    step: int,
    parameters: dict[str, int] | None,
    held_out: SplitText | None = None,
) -> dict[str, Any]:
    """The fields of a header line but ``kind``, ``schema_version`` and ``run_id``.

    Args:
        args: Megatron's validated arguments.
        run: what its methods make of it.
        step: that the run starts from.
        parameters: of the whole model, ``total`` and ``active``; None where not known.
        held_out: the text of the validation split; None where not known.
    """
    return {
        "step": step,
        "started_at": time.time(),
        "git": _git_state(),
        "recipe": args.recipe,
        "command": sys.argv,
        "versions": _versions(),
        "host": platform.platform(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "world_size": args.world_size,
        "layout": {name: getattr(args, name) for name in Role.LAYOUT.value},
        "seed": args.seed,
        "data": _data(args),
        "held_out": None if held_out is None else held_out.as_json(),
        "tokenizer": {
            "type": args.tokenizer_type,
            "model": args.tokenizer_model,
            "sha256": tokenizer_sha256(args),
            "padded_vocab_size": args.padded_vocab_size,
        },
        "parameters": parameters,
        "methods": [
            {
                "name": part.name,
                "stages": [stage.as_json() for stage in part.stages],
                "facts": dict(part.facts),
            }
            for part in run.parts
        ],
        "parents": [asdict(parent) for parent in (*run.parents(), *_behind_its_text(args, run))],
        "flags": {
            name: value if isinstance(value, _PLAIN) else str(value)
            for name, value in sorted(vars(args).items())
            if isinstance(value, (*_PLAIN, *_WITH_A_NAME))
        },
    }


def _behind_its_text(args: argparse.Namespace, run: Run) -> Iterator[Parent]:
    """The byte model that its text was cut by; none where none was trained."""
    if (cost := cost_of_byte_model(args, run.form_names(args))) is not None:
        # Tokens that it read are bytes, and none of the run's.
        what = f"a byte model of {cost.parameters:,} parameters ({cost.record})"
        yield Parent(None, 0, cost.flops, cost.gpu_hours, 0, what)


def _versions() -> dict[str, str | None]:
    """Of what computes; a package that is on the path without being installed has none."""
    versions: dict[str, str | None] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }
    for name in ("megatron-core", "tst-megatron", "transformer-engine", "triton"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    if torch.cuda.is_available():
        versions["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    return versions


def _git_state() -> dict[str, Any] | None:
    """The commit of this package's checkout, and whether it was changed since; None without one."""
    folder = Path(tst_megatron.__file__).parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *words: str) -> str:
    return subprocess.run(
        ("git", "-C", str(folder), *words),
        capture_output=True,
        text=True,
        timeout=_GIT_TIMEOUT_S,
        check=True,
    ).stdout.strip()


def _data(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every corpus by its path, with its manifest's hash where it has a manifest."""
    prefixes = [] if args.sft or args.mock_data else all_prefixes(args)
    return [
        {"path": prefix, "manifest_sha256": _sha256(manifest_path(Path(prefix)))}
        for prefix in prefixes
    ]


def _sha256(path: str | Path) -> str | None:
    """Of a file; None for what is no file on this machine."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
