"""Slow float64 answers, written from the paper's formulas and not from the package's code."""

import numpy as np
import torch
from torch import Tensor

EMPTY = -1
SIZES = (1, 2, 3, 6, 16)
SCHEMES = ("uniform", "power", "exponential", "first", "mutual-information")


def scheme_weights(name: str, bag_size: int) -> Tensor:
    """``[s]``, float64, summing to 1."""
    j = np.arange(1, bag_size + 1, dtype=np.float64)
    raw = {
        "uniform": np.ones_like(j),
        "power": 1 / j,
        "exponential": np.exp(-j),
        "first": (j == 1).astype(np.float64),
        "mutual-information": 3.63 + 1.35 * np.power(j, -1.25),
    }[name]
    return torch.from_numpy(raw / raw.sum())


def filled_weights(weights: Tensor, targets: Tensor) -> Tensor:
    """``[s]`` and ``[..., s]`` → ``[..., s]``, float64: each bag's own sum over filled places."""
    flat = targets.reshape(-1, targets.shape[-1])
    rows = []
    for bag in flat.tolist():
        kept = [
            w if token != EMPTY else 0.0 for w, token in zip(weights.tolist(), bag, strict=True)
        ]
        total = sum(kept)
        rows.append([w / total if total else 0.0 for w in kept])
    return torch.tensor(rows, dtype=torch.float64).view(targets.shape)


def mce(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Σ_j w_j · (logsumexp(z) − z[y_j]): ``[..., V]``, ``[..., s]``, ``[..., s]`` → ``[...]``."""
    log_probabilities = torch.log_softmax(logits.double(), dim=-1)
    picked = log_probabilities.gather(-1, targets.clamp(min=0))
    return -(weights.double() * picked).sum(dim=-1)


def mce_alt(logits: Tensor, targets: Tensor) -> Tensor:
    """−log of the bag's total probability, each token once; one position at a time."""
    log_probabilities = torch.log_softmax(logits.double(), dim=-1)
    losses = []
    for row, bag in zip(
        log_probabilities.flatten(0, -2), targets.flatten(0, -2).tolist(), strict=True
    ):
        tokens = sorted(set(bag) - {EMPTY})
        losses.append(-torch.logsumexp(row[tokens], dim=0) if tokens else row.sum() * 0.0)
    return torch.stack(losses).view(targets.shape[:-1])


def bfloat16_gradient_error(gradient_of, bags: Tensor, grad_output: Tensor) -> Tensor:
    """Most by which a table's gradient that is added up in bfloat16 can be off: ``[V, h]``.

    Every place of a token adds to its row, in whatever order, and each addition rounds by 2^-8 of a
    sum at most (8 bits of mantissa), which is never beyond all terms of one sign. Every term was
    rounded twice before: at the division by the bag's tokens, and as a term.

    Args:
        gradient_of: the gradient in float64 for a ``grad_output``, linear in it.
    """
    positive = gradient_of(grad_output.clamp(min=0))
    negative = -gradient_of(grad_output.clamp(max=0))
    places = torch.bincount(bags[bags != EMPTY], minlength=len(positive)).unsqueeze(-1)
    error = 2**-8 * (places * torch.maximum(positive, negative) + 2 * (positive + negative))
    # The sums that are rounded have the errors before them in them.
    return error * torch.exp(2**-8 * (places + 2))


def loss_and_gradient(loss_of, logits: Tensor, grad_output: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and gradient of a function of the logits, which are copied: it may work in place."""
    leaf = logits.detach().clone().requires_grad_()
    loss = loss_of(leaf)
    loss.backward(grad_output.to(loss.dtype))
    return loss.detach(), leaf.grad


def expected(logits: Tensor, targets: Tensor, weights: Tensor | None, grad_output: Tensor):
    """Loss and gradient in float64; ``mce-alt`` where the weights are None."""
    return loss_and_gradient(
        lambda z: mce_alt(z, targets) if weights is None else mce(z, targets, weights),
        logits.double(),
        grad_output.double(),
    )


def of_hidden_states(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    weights: Tensor | None,
    grad_output: Tensor,
    num_ranks: int = 1,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Loss of ``hidden @ weight.T`` and both gradients in float64, each with the most it is off by.

    Logits of h terms are off by e ≤ h · 2^-24 · Σ|hidden||weight| where float32 adds them up, and
    in bfloat16 (8 bits of mantissa) by 2^-8 of themselves more as they are stored. The logsumexp,
    the mean at the targets and the bag's log probability each move by no more than e, so the loss
    by 2e; softmax and shares by a factor of exp(2e), so the logits' gradient g · (p − share) by
    g · (p + share) · (exp(2e) − 1). To both comes what the loss itself may be off by
    (`assert_matches` in test_loss.py), and in bfloat16 one rounding of the gradient. Its product
    with the weight is rounded after every block, of which all absolute values together are
    Σ|gradient||weight|, and once as it is handed on, for which several ranks' sums are added up in
    bfloat16; the product with the hidden states once.

    Args:
        hidden: ``[L, b, h]``.
        weight: ``[V, h]``, of all ranks.
        weights: ``[L, b, s]``, or None for ``mce-alt``.
    """
    rows, table = hidden.double().flatten(0, -2), weight.double()
    logits = (rows @ table.t()).view(*targets.shape[:-1], -1)
    loss, gradient = expected(logits, targets, weights, grad_output)
    gradient, pull = gradient.flatten(0, -2), grad_output.double().reshape(-1, 1)
    softmax = logits.flatten(0, -2).softmax(-1)
    share = torch.where(gradient == 0.0, softmax, softmax - gradient / pull).abs()

    stored = 2**-8 if hidden.dtype == torch.bfloat16 else 0.0
    sums = (rows.abs() @ table.abs().t()).max()
    off = rows.shape[-1] * 2**-24 * sums + stored * logits.abs().max()
    of_gradient = pull.abs() * (softmax + share) * (torch.expm1(2 * off) + 1e-5) + 3e-6
    of_gradient += stored * (gradient.abs() + of_gradient)
    # Additions in float32, of all ids or of all rows; and the roundings to bfloat16.
    added = max(logits.shape[-1], len(rows)) * 2**-24 + (1 + num_ranks) * stored
    sizes = gradient.abs() + of_gradient
    return {
        "loss": (loss, 2 * off + 3e-6 * (1 + loss.abs())),
        "hidden": (
            (gradient @ table).view(hidden.shape),
            (of_gradient @ table.abs() + added * (sizes @ table.abs())).view(hidden.shape),
        ),
        "weight": (
            gradient.t() @ rows,
            of_gradient.t() @ rows.abs() + added * (sizes.t() @ rows.abs()),
        ),
    }


def assert_within(results: dict[str, Tensor], expected_of: dict[str, tuple[Tensor, Tensor]]):
    """Each no further off than it may be."""
    for name, result in results.items():
        true, error = expected_of[name]
        off = (result.double() - true).abs()
        assert (off <= error).all(), f"{name}: off by {(off / error).max():.3g} of what it may be"
