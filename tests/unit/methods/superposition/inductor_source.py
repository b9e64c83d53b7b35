"""What torch's compiler writes for a GPU that is not there, as text.

It writes Triton before it asks for a GPU to run it on. Until then it wants to know a few things
about the GPU, which are answered here for an H100, and to keep the state of its random numbers.
"""

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._dynamo.device_interface import CudaInterface
from torch._inductor.compile_fx import compile_fx_inner
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.graph import GraphLowering
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

_H100 = SimpleNamespace(
    type="cuda",
    index=0,
    name="H100",
    major=9,
    minor=0,
    multi_processor_count=132,
    regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    shared_memory_per_block=48 * 2**10,
    shared_memory_per_block_optin=227 * 2**10,
    L2_cache_size=50 * 2**20,
    warp_size=32,
    total_memory=80 * 2**30,
)
_ANSWERS: dict[str, Callable[..., Any]] = {
    "torch.cuda.is_available": lambda: True,
    "torch.cuda.device_count": lambda: 1,
    "torch.cuda.current_device": lambda: 0,
    "torch.cuda.get_device_properties": lambda *args: _H100,
    "torch.cuda.get_device_capability": lambda *args: (9, 0),
    "torch.cuda._exchange_device": lambda device: 0,
    "torch.cuda._maybe_exchange_device": lambda device: 0,
    "torch._dynamo.utils.preserve_rng_state": nullcontext,
    "torch._subclasses.fake_tensor.init_gpu_context": lambda *args: None,
    "torch._inductor.scheduler.has_triton": lambda: True,
}


class _Written(Exception):  # noqa: N818  # not an error
    """Ends the compilation with what was written."""


def _written(code: str) -> None:
    raise _Written(code)


def source_of(function: Callable[..., Any], *shapes: tuple[tuple[int, ...], torch.dtype]) -> str:
    """The module that torch's compiler writes for a function of CUDA tensors."""
    with ExitStack() as patched:
        for name, answer in _ANSWERS.items():
            patched.enter_context(patch(name, answer))
        for owner in (CudaInterface, CudaInterface.Worker):
            properties = staticmethod(lambda *args: _H100)
            patched.enter_context(patch.object(owner, "get_device_properties", properties))
        patched.enter_context(patch.object(GraphLowering, "save_output_code", _written))
        # For good, as this process has no GPU of its own to go back to.
        driver.set_active(SimpleNamespace(get_current_target=lambda: GPUTarget("cuda", 90, 32)))
        with FakeTensorMode():
            given = [torch.empty(shape, dtype=dtype, device="cuda") for shape, dtype in shapes]
        graph = _graph_of(function, given)
        try:
            compile_fx_inner(graph, given)
        except Exception as error:
            code = _found_in(error)
            if code is None:
                raise
            return code
    raise AssertionError("torch's compiler ended without having written anything")


def _graph_of(function: Callable[..., Any], given: list[Tensor]) -> torch.fx.GraphModule:
    return make_fx(
        torch.func.functionalize(function),
        tracing_mode="fake",
        decomposition_table=select_decomp_table(),
    )(*given)


def _found_in(error: BaseException | None) -> str | None:
    """Of an error or what it was raised for."""
    while error is not None:
        if isinstance(error, _Written):
            return str(error)
        error = error.__cause__ or error.__context__
    return None
