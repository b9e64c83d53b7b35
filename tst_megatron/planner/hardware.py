"""What the GPUs and links of a cluster can do, by their makers' figures.

The one idea: one table, every figure of it replaceable by a flag. Memory is in decimal gigabytes,
as sold; peaks are of the tensor cores without sparsity; links count one direction, a GPU.
"""

from dataclasses import dataclass

from tst_megatron.errors import UserError

GB = 10**9
TERA = 10**12


@dataclass(frozen=True)
class Gpu:
    """A GPU in its node.

    Attributes:
        name: as the user names it.
        memory: bytes.
        bf16_flops: a second, at the most.
        fp8_flops: a second, at the most; 0 where it has no FP8.
        nvlink: bytes a second from one GPU to the others of its node.
        network: bytes a second from one GPU to other nodes.
        gpus_per_node: GPUs that reach one another by NVLink.
        capability: CUDA's compute capability.
    """

    name: str
    memory: float
    bf16_flops: float
    fp8_flops: float
    nvlink: float
    network: float
    gpus_per_node: int
    capability: tuple[int, int]


# NVIDIA's data sheets "A100", "H100", "H200", "HGX B200" and "GB200 NVL72": FLOPs with sparsity
# halved, NVLink's both directions halved. Network: the adapters of NVIDIA's own DGX of each kind,
# one of 200 Gb/s (A100) or 400 Gb/s a GPU.
GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100", 80 * GB, 312 * TERA, 0.0, 300 * GB, 25 * GB, 8, (8, 0)),
        Gpu("h100", 80 * GB, 989 * TERA, 1979 * TERA, 450 * GB, 50 * GB, 8, (9, 0)),
        Gpu("h200", 141 * GB, 989 * TERA, 1979 * TERA, 450 * GB, 50 * GB, 8, (9, 0)),
        Gpu("b200", 180 * GB, 2250 * TERA, 4500 * TERA, 900 * GB, 50 * GB, 8, (10, 0)),
        Gpu("gb200", 186 * GB, 2500 * TERA, 5000 * TERA, 900 * GB, 50 * GB, 72, (10, 0)),
    )
}


def gpu_named(name: str) -> Gpu:
    """A GPU of the table.

    Raises:
        UserError: the table has no such GPU.
    """
    gpu = GPUS.get(name.lower())
    if gpu is None:
        raise UserError(
            f"--gpu {name} is not in the table: use one of {', '.join(GPUS)}, and give what "
            "differs by --gpu-memory, --peak-tflops, --nvlink and --network"
        )
    return gpu
