"""The embedding of bags on this device: values and gradient against float64, and its memory."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from reference import EMPTY
from torch import Tensor

from tests.gpu.figures import Figure, Note
from tests.gpu.loss import watched
from tests.gpu.machine import Machine

_UNIT = "of what rounding explains"
_FLOAT32_UNIT = 2.0**-24
_EMPTY_SHARE = 0.3
# What an allocator rounds up to, and kernels of other sizes.
_OF_PLANNED = 1.1


def embedding(machine: Machine) -> Iterator[Figure | Note]:
    """Errors as a share of what rounding explains at most; bytes against the planner's."""
    flags = machine.prepare()
    positions, hidden, table_rows = machine.sized((4096, 512, 32768), (32, 16, 64))
    planned = _planned(machine)
    start_megatron(machine, flags)
    for dtype in (torch.float32, torch.bfloat16):
        table = torch.randn(table_rows, hidden, device=machine.device).to(dtype)
        for has_empty_places in (False, True):
            module = module_of(table, has_empty_places)
            bags = _bags(table_rows, (2, positions // 2, 16), has_empty_places, machine.device)
            errors = _shares_of_bounds(module, bags)
            of = f"{str(dtype).removeprefix('torch.')}{', empty places' * has_empty_places}"
            yield Figure(f"{of}: error of the embedding", errors[0], _UNIT, 1)
            yield Figure(f"{of}: error of the table's gradient", errors[1], _UNIT, 1)
    yield _waits(machine, module, bags)
    yield from _peak(machine, planned)


def start_megatron(machine: Machine, flags: tuple[str, ...]) -> None:
    """Megatron's groups over this process alone."""
    from benchmarks.__main__ import be_the_only_process
    from benchmarks.step import start_megatron

    be_the_only_process()
    start_megatron(flags, machine.local_flags)


def module_of(table: Tensor, has_empty_places: bool) -> Any:
    """The superposed embedding with a table of that dtype and device ``[V, h]``."""
    from benchmarks.embedding import module_of
    from tst_megatron.methods.superposition.embedding import SuperposedVocabParallelEmbedding

    module = module_of(SuperposedVocabParallelEmbedding, table)
    module.has_empty_places = has_empty_places
    return module


def _bags(rows: int, shape: tuple[int, ...], has_empty_places: bool, device: str) -> Tensor:
    """Ids of which a few are frequent, as in text."""
    bags = (torch.rand(shape, device=device) ** 3 * rows).long()
    if has_empty_places:
        bags[torch.rand(shape, device=device) < _EMPTY_SHARE] = EMPTY
        bags[0, 0] = EMPTY
    return bags


def _shares_of_bounds(module: Any, bags: Tensor) -> tuple[float, float]:
    """Largest error of output and gradient, each as a share of its bound.

    A mean of s rows is added up in float32, u = 2^-24 a term and addition, and rounded to the
    table's dtype: once, or with empty places at the sum and at the division. A row of the gradient
    adds up the shares of its places in float32, or where it is bfloat16 on a CPU in that, of terms
    that were rounded twice (`reference.bfloat16_gradient_error`).
    """
    table = module.weight.detach()
    output = module(bags)
    grad_output = torch.randn_like(output)
    (gradient,) = torch.autograd.grad(output, module.weight, grad_output)
    is_filled = (bags != EMPTY).unsqueeze(-1)
    filled = is_filled.sum(2).clamp(min=1)
    rows = table.double()[bags.clamp(min=0)] * is_filled
    mean = rows.sum(2) / filled
    unit = torch.finfo(table.dtype).eps / 2
    sums = (bags.shape[-1] + 2) * _FLOAT32_UNIT * rows.abs().sum(2) / filled
    output_share = _largest(output.double() - mean, 3 * unit * mean.abs() + sums)
    terms = grad_output.double().unsqueeze(2) / filled.unsqueeze(2) * is_filled
    exact, sizes, places = (
        torch.zeros(
            table.shape[0], values.shape[-1], dtype=torch.float64, device=bags.device
        ).index_add_(0, bags.clamp(min=0).flatten(), values.expand(*bags.shape, -1).flatten(0, 2))
        for values in (terms, terms.abs(), is_filled.double())
    )
    of_additions = (unit if bags.device.type == "cpu" else _FLOAT32_UNIT) * (places + 2)
    # The sums that are rounded have the errors before them in them.
    allowed = sizes * (of_additions + 3 * unit) * torch.exp(of_additions + 3 * unit)
    return output_share, _largest(gradient.double() - exact, allowed)


def _largest(off: Tensor, allowed: Tensor) -> float:
    return float(torch.where(off == 0, 0.0, off.abs() / allowed).max())


def _waits(machine: Machine, module: Any, bags: Tensor) -> Figure:
    waits = 0
    try:
        with watched(machine):
            output = module(bags)
            torch.autograd.grad(output, module.weight, torch.ones_like(output))
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        waits = 1
    return Figure("the host waits", waits, "", 0)


def _planned(machine: Machine) -> tuple[Any, int, int]:
    """The 3B recipe's arguments, s, and the planner's bytes of the look-up and its gradient."""
    from tst_megatron import recipes
    from tst_megatron.planner.course import Course
    from tst_megatron.planner.flags import planned_args
    from tst_megatron.planner.hardware import GPUS

    flags = recipes.expand_recipe(["--recipe", "smollm3-3b-tst+8xh100"])
    with planned_args(flags, 8, GPUS["h100"]) as args:
        course = Course.of(args)
        planned = course.terms.embedding_bytes(args, course.heaviest, 0)
        return args, course.heaviest.tokens_a_position, planned


def _peak(machine: Machine, of_recipe: tuple[Any, int, int]) -> Iterator[Figure | Note]:
    """Most bytes beyond weights and output, of a look-up and its gradient of the 3B recipe."""
    args, bag_size, planned = of_recipe
    if machine.dry_run:
        yield Note(f"left to a GPU: peak memory, {planned / 2**20:,.0f} MiB by the planner")
        return
    rows = args.padded_vocab_size
    table = torch.randn(rows, args.hidden_size, device="cuda", dtype=torch.bfloat16)
    module = module_of(table, has_empty_places=False)
    bags = _bags(rows, (args.micro_batch_size, args.seq_length, bag_size), False, "cuda")
    output = module(bags)
    grad_output = torch.ones_like(output)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    torch.autograd.grad(output, module.weight, grad_output)
    peak = torch.cuda.max_memory_allocated() - before
    what = "the 3B recipe's gradient of the table, memory over the planner's"
    yield Figure(what, peak / planned if planned else math.inf, "", _OF_PLANNED)
    yield Figure("its memory", peak / 2**20, "MiB")
