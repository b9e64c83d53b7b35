"""The loss of bags on this device against float64: every implementation, weight and objective."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import reference
import torch
from torch import Tensor

from tests.gpu.figures import Figure, Note
from tests.gpu.machine import Machine

_DTYPES = (torch.float32, torch.bfloat16)
_EMPTY_SHARE = 0.2
_LARGE = 2**31
_UNIT = "of what rounding explains"


@dataclass(frozen=True)
class Case:
    """Logits and what they are held against.

    Attributes:
        logits: ``[L, b, V]``.
        targets: ``[L, b, s]``, with duplicates and places that are empty.
        grad_output: ``[L, b]``, float32.
    """

    logits: Tensor
    targets: Tensor
    grad_output: Tensor

    @classmethod
    def drawn(
        cls, shape: tuple[int, int, int], bag_size: int, dtype: torch.dtype, device: str
    ) -> "Case":
        """Fresh random ones of a model's spread."""
        generator = torch.Generator(device).manual_seed(torch.seed() % 2**63)
        rows, vocabulary = shape[:2], shape[2]
        logits = (torch.randn(shape, generator=generator, device=device) * 3).to(dtype)
        targets = torch.randint(
            0, vocabulary, (*rows, bag_size), generator=generator, device=device
        )
        targets[..., -1] = targets[..., 0]  # Every bag has a token twice.
        empty = torch.rand(targets.shape, generator=generator, device=device) < _EMPTY_SHARE
        targets.masked_fill_(empty, reference.EMPTY)
        targets[0, 0] = reference.EMPTY
        grad_output = torch.randn(rows, generator=generator, device=device)
        return cls(logits, targets, grad_output)

    @property
    def unit_roundoff(self) -> float:
        """Of the logits' dtype: what one rounding is off at most, of the number."""
        return torch.finfo(self.logits.dtype).eps / 2


def loss(machine: Machine) -> Iterator[Figure | Note]:
    """Errors as a share of what rounding explains at most; and whether the host ever waits."""
    _prepare(machine)
    yield _default(machine)
    # 50,257 is no multiple of anything: rows begin where no wide load may.
    shapes = machine.sized([(48, 2, 50257), (32, 2, 128256)], [(6, 2, 61), (4, 2, 1024)])
    for implementation in _implementations(machine):
        yield from _whatever_comes(implementation, _figures(machine, implementation, shapes))
    if machine.dry_run:
        yield Note(
            "left to a GPU: the compiled loss, the kernel as more than Triton's interpreter, and "
            "whether the host waits"
        )


def _default(machine: Machine) -> Figure:
    """Whether what is taken where none is named is the kernel: of a GPU it has to be."""
    from tst_megatron.methods.superposition.logit_passes import default_on

    chosen = default_on(torch.device(machine.device))
    return Figure("the kernel is the default", chosen == "kernel", "", machine.timed(1), False)


def _prepare(machine: Machine) -> None:
    if machine.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # Before triton is imported.
    machine.prepare()


def _implementations(machine: Machine) -> Sequence[str]:
    return machine.sized(("kernel", "compiled", "eager"), ("kernel", "eager"))


def _dtypes(machine: Machine, implementation: str) -> Sequence[torch.dtype]:
    # Triton's interpreter does not round to bfloat16: it cuts off.
    interpreted = machine.dry_run and implementation == "kernel"
    return _DTYPES[:1] if interpreted else _DTYPES


def _whatever_comes(
    implementation: str, figures: Iterator[Figure | Note]
) -> Iterator[Figure | Note]:
    """One implementation that does not run here is a missed figure, and the others go on."""
    try:
        yield from figures
    except Exception as error:
        yield Figure(f"{implementation}: does not run here", 1, "", 0)
        yield Note(f"{implementation}: {type(error).__name__}: {str(error)[:600]}")


def _figures(
    machine: Machine, implementation: str, shapes: Sequence[tuple[int, int, int]]
) -> Iterator[Figure | Note]:
    for shape in shapes:
        for dtype in _dtypes(machine, implementation):
            # torch compiles a function for eight kinds of inputs, and then no more.
            torch.compiler.reset()
            yield from _against_float64(machine, implementation, shape, dtype)
    for dtype in _dtypes(machine, implementation):
        torch.compiler.reset()
        yield from _in_chunks(machine, implementation, dtype)
    yield _waits(machine, implementation, shapes[0])


def multi_hot(implementation: str, case: Case, logits: Tensor, **more: Any) -> Tensor:
    """The package's loss, by an implementation: ``[L, b]``."""
    from tst_megatron.superposition import multi_hot_cross_entropy

    return multi_hot_cross_entropy(logits, case.targets, implementation=implementation, **more)


def _against_float64(
    machine: Machine, implementation: str, shape: tuple[int, int, int], dtype: torch.dtype
) -> Iterator[Figure]:
    """The worst of all weights and objectives, of the loss and of its gradient."""
    from tst_megatron.superposition import bag_weights

    worst = [0.0, 0.0]
    for bag_size in (6, 16):
        case = Case.drawn(shape, bag_size, dtype, machine.device)
        for name in (*reference.SCHEMES, "mce-alt"):
            if name == "mce-alt":
                weights, more = None, {"objective": name}
            else:
                scheme = reference.scheme_weights(name, bag_size)
                weights = reference.filled_weights(scheme, case.targets).to(machine.device)
                more = {"weights": bag_weights(name, bag_size).to(machine.device)}
            errors = shares_of_bounds(implementation, case, weights, more)
            worst = [max(pair) for pair in zip(worst, errors, strict=True)]
    of = f"{implementation}, {list(shape)} {str(dtype).removeprefix('torch.')}"
    yield Figure(f"{of}: error of the loss", worst[0], _UNIT, 1)
    yield Figure(f"{of}: error of the gradient", worst[1], _UNIT, 1)


def _in_chunks(machine: Machine, implementation: str, dtype: torch.dtype) -> Iterator[Figure]:
    """Of hidden states whose logits are never whole: the errors of the loss and both gradients."""
    from tst_megatron.methods.superposition.chunked_logits import chunked_multi_hot_cross_entropy

    shape, width, chunk_size = machine.sized(((96, 2, 50257), 256, 64), ((5, 3, 301), 24, 4))
    case = Case.drawn(shape, 6, dtype, machine.device)
    drawn = ((*shape[:2], width), (shape[2], width))
    hidden, weight = (torch.randn(s, device=machine.device).div(2).to(dtype) for s in drawn)
    leaves = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    found = chunked_multi_hot_cross_entropy(
        *leaves, case.targets, chunk_size=chunk_size, implementation=implementation
    )
    found.backward(case.grad_output)
    mine = {"loss": found.detach(), "hidden": leaves[0].grad, "weight": leaves[1].grad}
    uniform = reference.filled_weights(torch.full((6,), 1 / 6, dtype=torch.float64), case.targets)
    true = reference.of_hidden_states(
        hidden, weight, case.targets, uniform.to(machine.device), case.grad_output
    )
    of = f"{implementation}, in chunks, {str(dtype).removeprefix('torch.')}"
    for name, (exact, allowed) in true.items():
        share = float(((mine[name].double() - exact).abs() / allowed).max())
        yield Figure(f"{of}: error of {name}", share, _UNIT, 1)


def shares_of_bounds(
    implementation: str, case: Case, weights: Tensor | None, more: dict[str, Any]
) -> tuple[float, float]:
    """Largest error of loss and gradient, each as a share of its bound.

    Args:
        implementation: of the loss.
        case: what it is given.
        weights: ``[L, b, s]``, float64, of the reference; None for ``mce-alt``.
        more: the package's arguments for the same.
    """
    mine = reference.loss_and_gradient(
        lambda z: multi_hot(implementation, case, z, **more), case.logits, case.grad_output
    )
    return shares(case, mine, weights)


def shares(case: Case, mine: tuple[Tensor, Tensor], weights: Tensor | None) -> tuple[float, float]:
    """Errors of a loss and a gradient of the case, each as a share of its bound.

    With u = 2^-24, shifted logits a = z − max z, R = max |a| and n places in a bag:

    - a is rounded once, which moves exp(a) by u·|a| of itself; the exponential of a GPU is off by
      2^-22 and takes its argument times log2 e, rounded once more: u·(2R + 4 + 1) for a term;
    - a term of the sum goes through V/1024 additions of its thread or block, 10 more across them,
      and as many scalings where the maximum is found on the way: u·(V/512 + 20);
    - the targets' part is a sum of at most n terms of size R, each rounded twice: u·R·(n + 2), and
      for ``mce-alt`` a logsumexp of n terms, which is no worse;
    - the logarithm, the difference and the product by the weights' sum: 4u of the loss, of at most
      R + log V.

    A gradient is p·pull − share·pull, p off by the first two parts and twice more, and then
    rounded to the logits' dtype.
    """
    true, true_gradient = reference.expected(case.logits, case.targets, weights, case.grad_output)
    unit, vocabulary, places = 2.0**-24, case.logits.shape[-1], case.targets.shape[-1]
    exact = case.logits.double()
    reach = float((exact.amax(-1, keepdim=True) - exact).max())
    of_sum = unit * (2 * reach + 5 + vocabulary / 512 + 20)
    of_score = unit * reach * (places + 2)
    of_loss = of_sum + of_score + 4 * unit * (reach + math.log(vocabulary))
    error = float((mine[0].double() - true).abs().max())
    pulled = exact.softmax(-1) * case.grad_output.double().abs().unsqueeze(-1)
    # |share · pull| is at most |gradient| + p · |pull|.
    size = true_gradient.abs() + 2 * pulled
    allowed = case.unit_roundoff * true_gradient.abs() + (2 * of_sum + of_score) * size
    off = (mine[1].double() - true_gradient).abs()
    # Where nothing is allowed, at rows without a target, nothing may be off.
    return error / of_loss, float(torch.where(off == 0, 0.0, off / allowed).max())


@contextmanager
def _waiting_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def watched(machine: Machine) -> AbstractContextManager[None]:
    """Where the host's waiting for the GPU raises; a CPU has nothing to wait for."""
    return nullcontext() if machine.dry_run else _waiting_is_an_error()


def _waits(machine: Machine, implementation: str, shape: tuple[int, int, int]) -> Figure:
    """Whether forward and backward make the host wait, after a first call that compiles."""
    dtype = _dtypes(machine, implementation)[-1]
    case = Case.drawn(shape, 16, dtype, machine.device)
    waits = 0
    for is_watched in (False, True):
        leaf = case.logits.clone().requires_grad_()
        try:
            with watched(machine) if is_watched else nullcontext():
                multi_hot(implementation, case, leaf).backward(case.grad_output)
        except RuntimeError as error:
            if not is_watched or "synchroniz" not in str(error):
                raise
            waits += 1
    return Figure(f"{implementation}: the host waits", waits, "", 0)


def large_logits(machine: Machine) -> Iterator[Figure | Note]:
    """Rows on either side of the 2³¹st logit are those of the same rows alone."""
    _prepare(machine)
    for implementation in _implementations(machine):
        yield from _whatever_comes(implementation, _ends(machine, implementation))
    if machine.dry_run:
        yield Note("left to a GPU: as many as 2³¹ logits")


def _ends(machine: Machine, implementation: str) -> Iterator[Figure]:
    vocabulary = machine.sized(131072, 512)
    edge = machine.sized(_LARGE // vocabulary, 32)
    rows, dtype = edge + 64, _dtypes(machine, implementation)[-1]
    case = Case.drawn((rows, 1, vocabulary), 16, dtype, machine.device)
    ends = torch.cat([torch.arange(32), torch.arange(edge - 32, rows)]).to(machine.device)
    alone = Case(case.logits[ends], case.targets[ends], case.grad_output[ends])
    weights = torch.full((16,), 1 / 16, dtype=torch.float64)
    filled = reference.filled_weights(weights, alone.targets).to(machine.device)
    leaf = case.logits.requires_grad_()
    found = multi_hot(implementation, case, leaf)
    (gradient,) = torch.autograd.grad(found, leaf, case.grad_output)
    errors = shares(alone, (found.detach()[ends], gradient[ends]), filled)
    for of_what, error in zip(("loss", "gradient"), errors, strict=True):
        what = f"{implementation}, {rows * vocabulary:,} logits: error of the {of_what}"
        yield Figure(what, error, _UNIT, 1)
