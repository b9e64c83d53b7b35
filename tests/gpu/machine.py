"""What a check is given: the device, the folder and the text, and what a CPU does in its place.

The one idea: a check asks `Machine` for whatever differs between a GPU and a dry run, so that the
rest of it is the same code on either.
"""

import importlib.util
import os
import time
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.gpu.figures import CannotRunHereError
from tst_megatron.backends import DEVICE_VARIABLE, FLAGS

# What a machine without Apex needs (megatron/core/tensor_parallel/layers.py takes its kernel).
_WITHOUT_APEX = "--no-gradient-accumulation-fusion"


@dataclass(frozen=True)
class Machine:
    """Where a check runs.

    Attributes:
        dry_run: on a CPU, at tiny sizes.
        gpus: that may be used.
        out: folder of this check alone.
        beside: folder of the report.
        text: folder of the text that runs read; made by the first that needs it.
        limit_s: seconds after which the check is ended.
        minutes: for the comparison.
    """

    dry_run: bool
    gpus: int
    out: str
    beside: str
    text: str
    limit_s: float
    minutes: float

    def as_json(self) -> dict[str, Any]:
        """For the process of the check."""
        return asdict(self)

    @property
    def folder(self) -> Path:
        """Of this check."""
        return Path(self.out)

    @property
    def device(self) -> str:
        """Torch's name of it."""
        return "cpu" if self.dry_run else "cuda"

    def sized[T](self, on_gpu: T, on_cpu: T) -> T:
        """The size for a GPU, or the one that a dry run walks with."""
        return on_cpu if self.dry_run else on_gpu

    def timed(self, bound: float) -> float | None:
        """The bound of a figure that only a GPU gives, as by its clock: none in a dry run."""
        return None if self.dry_run else bound

    @cached_property
    def _started(self) -> float:
        return time.monotonic()

    def start_clock(self) -> None:
        """The check begins."""
        assert self._started

    @property
    def seconds_left(self) -> float:
        """Until the check is ended."""
        return self.limit_s - (time.monotonic() - self._started)

    @property
    def local_flags(self) -> tuple[str, ...]:
        """Megatron's own modules, in the arithmetic that the CPU backend has too."""
        return () if self.dry_run else tuple(f for f in FLAGS if "backend" not in f)

    @property
    def te_flags(self) -> tuple[str, ...]:
        """Transformer Engine's modules in bf16; in a dry run the CPU's, in float32.

        Raises:
            CannotRunHereError: Transformer Engine is not installed.
        """
        if self.dry_run:
            return ()
        self.needs("transformer_engine", "Transformer Engine")
        return ("--bf16", "--transformer-impl=transformer_engine", *self.fusion_flags)

    @property
    def fusion_flags(self) -> tuple[str, ...]:
        """Those without what only Apex has, where it is not installed."""
        return () if importlib.util.find_spec("apex") else (_WITHOUT_APEX,)

    def needs(self, module: str, package: str) -> None:
        """Check for a package.

        Raises:
            CannotRunHereError: it is not installed.
        """
        if importlib.util.find_spec(module) is None:
            raise CannotRunHereError(f"needs {package}, which is not installed here")

    def prepare(self) -> tuple[str, ...]:
        """Megatron in this process, on this device; call before it is imported.

        Returns:
            Flags of Megatron's that the device needs.
        """
        from tst_megatron.backends import prepare_backend

        if self.dry_run:
            os.environ[DEVICE_VARIABLE] = "cpu"
        return prepare_backend()
