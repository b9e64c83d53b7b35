"""The loss's kernels as Triton and ptxas compile them for a GPU that is not there.

These are checks of compilation: no kernel runs, and no time is measured.
"""

import re
import subprocess
from pathlib import Path

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tst_megatron.methods.superposition import loss_kernels

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
ACCESS_BYTES = 16
_NUMBERS = {"_read_row": ("maximum", "sum_exp", "at_targets")}
_NUMBERS["_write_row"] = ("maximum", "sum_exp", "shares", "pull")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# An odd number of accesses of 16 bytes in bfloat16, and no multiple of a block.
VOCABULARY, BAG_SIZE = 8 * 18_993, 16
# A100, H100, B200; what differs by dtype is not another's on another architecture.
BUILDS = (
    *((name, 80, "bf16") for name in _NUMBERS),
    *((name, 90, dtype) for name in _NUMBERS for dtype in ("bf16", "fp16", "fp32")),
    *((name, 100, "bf16") for name in _NUMBERS),
)


@pytest.fixture(scope="module", autouse=True)
def no_cache(tmp_path_factory):
    """What is compiled here is compiled now."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


def compiled(name: str, architecture: int, dtype: str):
    """As the launcher has it compiled, for tensors that begin at a multiple of 16 bytes."""
    kernel = getattr(loss_kernels, name)
    rows = torch.empty(4, VOCABULARY, dtype=DTYPES[dtype], device="meta")
    constants = loss_kernels._shape_of(rows, BAG_SIZE)
    num_warps = constants.pop("num_warps")
    types = {"rows": f"*{dtype}", "local_targets": "*i64"}
    types |= dict.fromkeys(_NUMBERS[name], "*fp32")
    signature = {
        argument: "constexpr" if argument in constants else types[argument]
        for argument in kernel.arg_names
    }
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, argument in enumerate(kernel.arg_names)
        if signature[argument].startswith("*")
    }
    return triton.compile(
        ASTSource(kernel, signature, constants, aligned),
        target=GPUTarget("cuda", architecture, 32),
        options={"num_warps": num_warps},
    )


@pytest.mark.parametrize(("name", "architecture", "dtype"), BUILDS)
def test_what_a_gpu_would_run(name, architecture, dtype, tmp_path):
    kernel = compiled(name, architecture, dtype)
    binary = tmp_path / "kernel.cubin"
    binary.write_bytes(kernel.asm["cubin"])
    used = _resources(binary)
    code = _tool("-sass", binary)

    assert used["STACK"] == used["LOCAL"] == 0, "registers were spilled"
    # Half of the 2,048 threads of a multiprocessor and its 65,536 registers; 31 to 48 were seen.
    assert used["REG"] <= 64
    # All of a block in accesses of 128 bits, by 32 threads a warp.
    threads = 32 * loss_kernels._NUM_WARPS
    accesses = loss_kernels._BLOCK * DTYPES[dtype].itemsize // (threads * ACCESS_BYTES)
    assert len(re.findall(r"LDG\.E(?:\.\w+)*\.128", code)) >= accesses
    stores = len(re.findall(r"STG\.E(?:\.\w+)*\.128", code))
    assert stores >= accesses if name == "_write_row" else stores == 0


@pytest.mark.parametrize("name", _NUMBERS)
def test_more_than_two_to_the_31_logits_are_found(name):
    """Where a row begins is worked out in 64 bits."""
    code = compiled(name, 90, "bf16").asm["ttir"]
    assert re.findall(r"tt\.addptr %rows\S*, %\S+ : !tt\.ptr<bf16>, (\w+)", code) == ["i64"]
    assert re.search(r"arith\.muli %row\S*, %\S+ : i64", code)


@pytest.mark.parametrize("architecture", [80, 90, 100])
def test_the_row_is_written_between_two_barriers(architecture):
    """After all threads have the logits at the targets, and before any writes the targets."""
    kernel = compiled("_write_row", architecture, "bf16")
    assert _found(
        kernel.asm["ttir"],
        barrier=r"\bbarrier\b",
        read=r"tt\.load.*ptr<bf16>",
        write=r"tt\.store.*ptr<bf16>",
    ) == ["read", "barrier", "read", "write", "barrier", "write"]
    # Of bfloat16, one at a time: nothing but the targets is read and written so. Accesses of a row
    # stand for both; other barriers are of sums over threads.
    told = _found(
        kernel.asm["ptx"],
        barrier=r"\bbar(rier)?\.sync",
        read=r"\bld\.global\.[bu]16",
        row=r"\b(ld|st)\.global\.v4",
        write=r"\bst\.global\.[bu]16",
    )
    assert (told.count("read"), told.count("write")) == (1, 1)
    row = [place for place, what in enumerate(told) if what == "row"]
    assert "barrier" in told[told.index("read") : row[0]]
    assert "row" not in told[: told.index("read")]
    assert "barrier" in told[row[-1] : told.index("write")]


def _found(code: str, **patterns: str) -> list[str]:
    """Which of the patterns the lines of a code have, in the lines' order."""
    return [
        name
        for line in code.splitlines()
        for name, pattern in patterns.items()
        if re.search(pattern, line)
    ]


def _resources(binary: Path) -> dict[str, int]:
    """Registers and bytes, as ``REG:32 STACK:0 SHARED:0 LOCAL:0``."""
    found = re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", _tool("-res-usage", binary))
    return {name: int(number) for name, number in found}


def _tool(flag: str, binary: Path) -> str:
    done = subprocess.run(
        [TOOLS / "cuobjdump", flag, binary], capture_output=True, text=True, check=True
    )
    return done.stdout + done.stderr
