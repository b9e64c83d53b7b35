"""What this machine is and has: for the report, and as the first check.

``python -m tests.gpu.environment`` prints the report's entry as JSON. It imports torch and touches
no GPU's memory.
"""

import importlib
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tests.gpu import REPOSITORY
from tests.gpu.figures import Figure, Note
from tests.gpu.machine import Machine

_PACKAGES = (
    *("megatron-core", "transformer-engine", "apex", "triton", "numpy", "transformers"),
    *("nvidia-resiliency-ext", "flash-attn"),
)
COMMIT_FILE = "COMMIT"
_FIRST_TORCH = (2, 11)
_FIRST_CAPABILITY = 8.0  # bf16 in tensor cores.


def probe() -> dict[str, Any]:
    """The report's entry of this machine, but for whether the run is dry."""
    import torch

    seen = torch.cuda.is_available()
    cards = range(torch.cuda.device_count() if seen else 0)
    return {
        "gpus": [_card(torch.cuda.get_device_properties(card)) for card in cards],
        "driver": _driver(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if seen else None,
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "commit": commit(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
    }


def _card(properties: Any) -> dict[str, Any]:
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _driver() -> str | None:
    with suppress(OSError):
        found = re.search(r"\b\d+\.\d+(\.\d+)?\b", Path("/proc/driver/nvidia/version").read_text())
        if found:
            return found.group()
    words = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    with suppress(OSError, subprocess.SubprocessError, IndexError):
        said = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True).stdout
        return said.split()[0]
    return None


def commit() -> str | None:
    """Of what a kit was packed from, or of this checkout, with a + where it was changed."""
    with suppress(OSError):
        return (REPOSITORY / COMMIT_FILE).read_text().strip()
    words = ("git", "-C", str(REPOSITORY))
    with suppress(OSError, subprocess.SubprocessError):
        one, state = (
            subprocess.run((*words, *more), capture_output=True, text=True, timeout=30, check=True)
            for more in (("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain"))
        )
        return one.stdout.strip() + ("+" if state.stdout.strip() else "")
    return None


def environment(machine: Machine) -> Iterator[Figure | Note]:
    """Versions, imports, a compiled kernel, and the two ceilings that speeds are read against."""
    import torch

    found = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    at_least = ".".join(map(str, _FIRST_TORCH))
    yield Figure(f"torch is {at_least} or newer", float(found >= _FIRST_TORCH), "", 1, False)
    yield from _imports(machine)
    if machine.dry_run:
        yield Note("left to a GPU: compute capability, a compiled kernel, the two ceilings")
        return
    properties = torch.cuda.get_device_properties(0)
    capability = properties.major + properties.minor / 10
    yield Figure("compute capability", capability, "", _FIRST_CAPABILITY, False)
    yield Figure("memory of the card", properties.total_memory / 2**30, "GiB")
    yield Figure("a kernel of torch.compile, error", _compiled_error(), "", 1e-6)
    yield Figure("copy inside the card, read and written", _copy_rate() / 1e12, "TB/s")
    yield Figure("matrix product, bf16, 8,192 cubed", _product_rate() / 1e12, "TFLOP/s")


def _imports(machine: Machine) -> Iterator[Figure | Note]:
    """What training imports."""
    machine.prepare()
    missing = []
    for module in ("megatron.core", "megatron.training", "tst_megatron.trainer.hooks"):
        try:
            importlib.import_module(module)
        except Exception as error:
            missing.append(f"{module}: {type(error).__name__}: {error}")
    yield Figure("parts of training that do not import", len(missing), "", 0)
    yield from (Note(" ".join(one.split())) for one in missing)
    try:
        importlib.import_module("transformer_engine.pytorch")
    except Exception as error:
        yield Note(f"Transformer Engine: {type(error).__name__}: {' '.join(str(error).split())}")
    else:
        yield Note("Transformer Engine imports")


def _compiled_error() -> float:
    """Largest relative difference of a compiled kernel: needs Triton, a C compiler and a driver."""
    import torch

    values = torch.rand(1 << 16, device="cuda")
    compiled = torch.compile(lambda x: (x.sin() * 2 + 1).sqrt(), fullgraph=True)
    exact = (values.double().sin() * 2 + 1).sqrt()
    return float(((compiled(values) - exact) / exact).abs().max())


def _copy_rate() -> float:
    """Bytes a second that a copy of 2 GiB reads and writes."""
    import torch

    from benchmarks.measure import gpu_seconds

    source = torch.empty(2**31, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    return 2 * source.numel() / gpu_seconds(lambda: target.copy_(source))


def _product_rate() -> float:
    """Operations a second of a large product of random numbers."""
    import torch

    from benchmarks.measure import gpu_seconds

    n = 8192
    one, other = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * n**3 / gpu_seconds(lambda: one @ other)


if __name__ == "__main__":
    print(json.dumps(probe()))
    sys.exit(0)
