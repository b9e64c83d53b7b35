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
