"""The loss's kernels, interpreted: against float64, and on infinities and NaN against eager.

Nothing is said of a GPU's arithmetic; what compilers make of them is in `test_loss_kernel_code`.
"""

import os
import subprocess
import sys

import kernel_worker
import pytest
import torch
from kernel_worker import CASES
from reference import expected, filled_weights, scheme_weights


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    """Results of the worker, and the seed of its inputs, which a failing test prints."""
    file = tmp_path_factory.mktemp("interpreted") / "results.pt"
    seed = int.from_bytes(os.urandom(4), "big")
    subprocess.run(
        [sys.executable, "-W", "ignore", kernel_worker.__file__, str(file), str(seed)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TRITON_INTERPRET": "1"},
        check=True,
        timeout=600,
    )
    return torch.load(file, weights_only=False), seed


@pytest.mark.parametrize("number", range(len(CASES)))
def test_it_is_the_loss(number, interpreted):
    results, seed = interpreted
    print(f"seed: {seed}")
    case, found = CASES[number], results["losses"][number]
    logits, targets, given, grad_output = kernel_worker.inputs(case, seed)

    weights = None
    if case.weights == "given":
        weights = given
    elif case.objective == "mce":
        weights = filled_weights(scheme_weights(case.weights or "uniform", case.bag_size), targets)
    true_loss, true_gradient = expected(logits, targets, weights, grad_output)

    assert found["loss"].dtype == torch.float32
    # Weights of a position sum to less than its places.
    total = 1.0 if case.weights != "given" else given.sum(-1).max().item()
    assert (found["loss"] - true_loss).abs().max() <= _loss_error(case) * total
    error = (found["gradient"].double() - true_gradient).abs()
    assert (error <= _gradient_error(case, true_gradient, grad_output, total)).all()
    if case.empty:
        assert found["loss"][1, 1] == 0.0
        assert (found["gradient"][1, 1] == 0.0).all()


# Half a place of float32 in 1.
_UNIT = 2.0**-24


def _loss_error(case) -> float:
    """Of log Σ exp(z − m) − Σ w (z − m); |z − m| is up to 32, as z is normal with a deviation of 3.

    Every exponential has the rounding of its argument, 32 units at most, and of itself, and is
    scaled once a block; the sum of V positive terms adds a rounding for every block, and one for
    every level of the tree of the last. Relative errors of the sum are absolute ones of its
    logarithm, which is below 2^4. The sum over places is a mean of numbers below 2^5, of which
    each is rounded as a difference, as a share and as a product, and in the sum at s places.
    """
    blocks = -(-case.vocabulary // kernel_worker.BLOCK)
    of_sum = 32 + 1 + 2 * blocks + 8
    return (of_sum + 16 + 32 * (3 + case.bag_size)) * _UNIT


def _gradient_error(case, true_gradient, grad_output, total):
    """One rounding to the logits' dtype, after one of float32 arithmetic of terms up to the pull.

    The interpreter cuts bfloat16 off where a GPU rounds to the nearest: a whole place instead of
    half of one.
    """
    place = {
        torch.float32: _UNIT,
        torch.float16: 2.0**-11,
        torch.bfloat16: 2.0**-7,
    }[case.dtype]
    # The exponential, its sum, the scale and the difference: as of the loss, times what is pulled.
    of_terms = _loss_error(case) * grad_output.abs().unsqueeze(-1).double() * total
    # Below the least normal number float16 has steps of 2^-24.
    least = 2.0**-24 if case.dtype == torch.float16 else 0.0
    return place * true_gradient.abs() * (1 + 1e-3) + of_terms + least


def test_the_gradient_is_the_memory_of_the_logits(interpreted):
    results, _ = interpreted
    for found in results["losses"]:
        assert found["is untouched"], "the forward pass wrote to the logits"
        assert found["is in place"]
        # Autograd would not know: Triton writes behind its back.
        assert "modified by an inplace operation" in found["of a second backward pass"]


def test_infinities_nan_and_targets_elsewhere_are_as_in_eager(interpreted):
    results, _ = interpreted
    kernel, eager = results["strange"]["kernel"], results["strange"]["eager"]
    # Eager takes the maximum of a row with NaN as NaN. Its sum is NaN in either.
    has_nan = torch.arange(7) == 4
    names = ("maximum", "sum", "at targets", "gradient")
    for name, ours, theirs in zip(names, kernel, eager, strict=True):
        ours, theirs = (value[~has_nan] if name == "maximum" else value for value in (ours, theirs))
        torch.testing.assert_close(
            ours, theirs, rtol=1e-6, atol=1e-7, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert kernel[1][has_nan].isnan().all()
