"""Does the stack import, and in which versions: ``python -m tst_megatron.health``.

The images' health check, and the first thing to run where a job does not start. It imports what
training imports and touches no GPU's memory, so that it may run beside a job.
"""

import argparse
import importlib
import platform
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tst_megatron.backends import prepare_to_import


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each part of the stack.

    Args:
        argv: ``--require MODULE...``: parts that are optional elsewhere and must be here.

    Returns:
        0, or 1 if a part does not import, with its name and why on standard error.
    """
    parser = argparse.ArgumentParser(prog="python -m tst_megatron.health", description=__doc__)
    parser.add_argument("--require", nargs="+", default=[], metavar="MODULE", choices=_OPTIONAL)
    required = {*_ALWAYS, *parser.parse_args(argv).require}
    _line("python", platform.python_version(), sys.executable)
    broken = []
    for module, (package, about) in (_ALWAYS | _OPTIONAL).items():
        try:
            if module.startswith("megatron."):
                prepare_to_import()  # Without a GPU, Megatron imports behind it alone.
            said = about(importlib.import_module(module))
        except ModuleNotFoundError as error:
            # Missing, as opposed to there and lacking something.
            if module in required or error.name != module.partition(".")[0]:
                broken.append(f"{module} does not import: {error}")
            else:
                _line(package, "not installed")
        # Compiled parts fail in ways of their own: a library, a symbol, a driver.
        except Exception as error:
            broken.append(f"{module} does not import: {type(error).__name__}: {error}")
        else:
            _line(package, _version(package), said)
    for problem in broken:
        print(f"health: {' '.join(problem.split())}", file=sys.stderr)
    return 1 if broken else 0


def _about_torch(torch: Any) -> str:
    if torch.version.cuda is None:
        return "built without CUDA"
    parts = [f"CUDA {torch.version.cuda}"]
    if torch.distributed.is_nccl_available():
        parts.append("NCCL " + ".".join(str(part) for part in torch.cuda.nccl.version()))
    # Counted by the driver's own library: nothing is allocated on any.
    return ", ".join([*parts, f"{torch.cuda.device_count()} GPUs"])


def _nothing_more(_: Any) -> str:
    return ""


# Module: (its package, what to say of it).
_ALWAYS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "tst_megatron": ("tst-megatron", _nothing_more),
    "torch": ("torch", _about_torch),
    "megatron.core": ("megatron-core", _nothing_more),
    "megatron.training": ("megatron-core", lambda _: "its trainer"),
}
_OPTIONAL: dict[str, tuple[str, Callable[[Any], str]]] = {
    "transformer_engine.pytorch": ("transformer-engine", _nothing_more),
    "apex": ("apex", _nothing_more),
}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of a version that it does not say"


def _line(name: str, which: str, said: str = "") -> None:
    print(f"{name:<19} {which:<14} {said}".rstrip(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
