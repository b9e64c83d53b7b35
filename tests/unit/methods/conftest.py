"""The CPU backend, before megatron is imported, and a process group of one."""

import os

from tst_megatron.backends import DEVICE_VARIABLE, prepare_backend

# These tests are gloo and CPU tensors on a machine with GPUs too.
os.environ.setdefault(DEVICE_VARIABLE, "cpu")
prepare_backend()

import pytest  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402


@pytest.fixture(scope="module")
def model_parallel():
    """Megatron's parallel state over one gloo process, gone again after the module."""
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    model_parallel_cuda_manual_seed(1)
    yield parallel_state.get_tensor_model_parallel_group()
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()


@pytest.fixture(params=["0", "fresh"])
def generator(request):
    """A seeded generator; ``fresh`` draws its seed, which a failing test prints."""
    seed = int.from_bytes(os.urandom(4), "big") if request.param == "fresh" else int(request.param)
    print(f"seed: {seed}")
    return torch.Generator().manual_seed(seed)
