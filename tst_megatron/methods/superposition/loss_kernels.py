"""The two passes over the logits as Triton kernels, one program a row.

The one idea: a logit is read once forward, and read and written once backward, whatever is done at
the s targets; so that is done here too, where the row is at hand, and no operation on ``[n, s]`` is
launched for it. The kernels have been compiled for three architectures and interpreted on a CPU;
none has run on a GPU.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from tst_megatron.methods.superposition.logit_passes import Numbers

# Logits of a row that a program holds at once, and its warps. 16 a thread are two accesses of 128
# bits in bfloat16, and take 48 registers at most, so that a multiprocessor has room for five such
# programs: some 40 KiB on their way from memory at any time (from the compilers' figures).
_BLOCK = 4096
_NUM_WARPS = 8
_LEAST = tl.constexpr(torch.finfo(torch.float32).min)
# Places of a bag that its others are held against at once: one by one they are a loop, which is
# unrolled into more than twice the registers.
_TOGETHER = tl.constexpr(16)


def can_run_on(device: torch.device) -> bool:
    """On GPUs, and anywhere where Triton interprets its kernels (TRITON_INTERPRET=1)."""
    return device.type == "cuda" or not isinstance(_read_row, triton.runtime.JITFunction)


def read(rows: Tensor, local_targets: Tensor) -> Numbers:
    """As `logit_passes.Passes.read`, in one launch."""
    n, bag_size = local_targets.shape
    maximum = rows.new_empty(n, dtype=torch.float32)
    sum_exp = torch.empty_like(maximum)
    at_targets = rows.new_empty((n, bag_size), dtype=torch.float32)
    with torch.cuda.device_of(rows):
        _read_row[(n,)](
            rows,
            local_targets.contiguous(),
            maximum,
            sum_exp,
            at_targets,
            **_shape_of(rows, bag_size),
        )
    return Numbers(maximum, sum_exp, at_targets)


def write(
    rows: Tensor,
    local_targets: Tensor,
    maximum: Tensor,
    sum_exp: Tensor,
    shares: Tensor,
    pull: Tensor,
) -> None:
    """As `logit_passes.Passes.write`, in one launch."""
    n, bag_size = local_targets.shape
    with torch.cuda.device_of(rows):
        _write_row[(n,)](
            rows,
            local_targets.contiguous(),
            maximum,
            sum_exp,
            shares.contiguous(),
            pull.contiguous(),
            **_shape_of(rows, bag_size),
        )
    # Autograd counts what torch writes; of this it has to be told, or a second backward pass would
    # take the gradient for the logits.
    torch.autograd.graph.increment_version(rows)


def _shape_of(rows: Tensor, bag_size: int) -> dict[str, int]:
    """What both kernels are compiled for, anew for every size of bags.

    With the length of a row they know at which bytes rows begin, and so whether 16 can be moved at
    once: Triton tells multiples of 16 numbers from others, of which 8 would do in bfloat16.
    """
    vocabulary = rows.shape[1]
    return {
        "VOCABULARY": vocabulary,
        "BAG_SIZE": bag_size,
        "PLACES": triton.next_power_of_2(bag_size),
        "BLOCK": min(_BLOCK, triton.next_power_of_2(vocabulary)),
        "num_warps": _NUM_WARPS,
    }


@triton.jit
def _read_row(
    rows,
    local_targets,
    maximum,
    sum_exp,
    at_targets,
    VOCABULARY: tl.constexpr,
    BAG_SIZE: tl.constexpr,
    PLACES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Of a row its maximum, the sum of exponentials from it, and the logits at its targets."""
    # The logits may be more than 2^31.
    row = tl.program_id(0).to(tl.int64)
    logits = rows + row * VOCABULARY

    places = tl.arange(0, PLACES)
    bag = row * BAG_SIZE + places
    targets = tl.load(local_targets + bag, mask=places < BAG_SIZE, other=-1)
    is_here = (targets >= 0) & (targets < VOCABULARY)
    at_target = tl.load(logits + targets, mask=is_here, other=0.0).to(tl.float32)
    tl.store(at_targets + bag, at_target, mask=places < BAG_SIZE)

    columns = tl.arange(0, BLOCK)
    # Not minus infinity, which a padded shard may be throughout: from itself it would be NaN.
    largest = tl.full((), _LEAST, tl.float32)
    sums = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, VOCABULARY, BLOCK):
        inside = first + columns < VOCABULARY
        z = tl.load(logits + first + columns, mask=inside, other=-float("inf")).to(tl.float32)
        larger = tl.maximum(largest, tl.max(z, axis=0))
        sums = sums * tl.exp(largest - larger) + tl.exp(z - larger)
        largest = larger
    tl.store(maximum + row, largest)
    tl.store(sum_exp + row, tl.sum(sums, axis=0))


@triton.jit
def _write_row(
    rows,
    local_targets,
    maximum,
    sum_exp,
    shares,
    pull,
    VOCABULARY: tl.constexpr,
    BAG_SIZE: tl.constexpr,
    PLACES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Put the gradient in the place of a row."""
    row = tl.program_id(0).to(tl.int64)
    logits = rows + row * VOCABULARY
    largest = tl.load(maximum + row)
    pulled = tl.load(pull + row)
    scale = pulled / tl.load(sum_exp + row)

    places = tl.arange(0, PLACES)
    bag = row * BAG_SIZE
    targets = tl.load(local_targets + bag + places, mask=places < BAG_SIZE, other=-1)
    is_here = (targets >= 0) & (targets < VOCABULARY)
    at_target = tl.load(logits + targets, mask=is_here, other=0.0).to(tl.float32)
    # A token's shares at all of its places: equal tokens get equal values, so that it does not
    # matter which of them is written last.
    share = tl.zeros((PLACES,), tl.float32)
    for first in range(0, BAG_SIZE, _TOGETHER):
        others = first + tl.arange(0, _TOGETHER)
        tokens = tl.load(local_targets + bag + others, mask=others < BAG_SIZE, other=-1)
        theirs = tl.load(shares + bag + others, mask=others < BAG_SIZE, other=0.0)
        is_same = targets[:, None] == tokens[None, :]
        share += tl.sum(tl.where(is_same, theirs[None, :], 0.0), axis=1)
    gradient = tl.exp(at_target - largest) * scale - pulled * share

    # No thread writes to the row before all have the logits at its targets, and none writes to the
    # targets before all have written to the row.
    tl.debug_barrier()
    columns = tl.arange(0, BLOCK)
    for first in range(0, VOCABULARY, BLOCK):
        inside = first + columns < VOCABULARY
        here = logits + first + columns
        z = tl.load(here, mask=inside, other=-float("inf")).to(tl.float32)
        tl.store(here, (tl.exp(z - largest) * scale).to(rows.dtype.element_ty), mask=inside)
    tl.debug_barrier()
    tl.store(logits + targets, gradient.to(rows.dtype.element_ty), mask=is_here)
