"""Bootstraps of a scaling law: all rows at once, against one L-BFGS after another.

Theirs is the replication's way (arXiv 2404.10102), with exact gradients: a bootstrap's law is
looked for alone, from the point estimate. torch's L-BFGS stands for scipy's, which nothing here
depends on. The points are made: 240, spread as Chinchilla's, of the published law with its scatter.
"""

from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.measure import Bench, Row, Work, quartiles, take_turns
from tst_megatron.analysis.scaling.fitting import CHINCHILLA_DELTA, Fit, fit, refit
from tst_megatron.analysis.scaling.law import Law
from tst_megatron.statistics.array import Array

_LAW = Law(1.81722, 477.83, 0.34731, 2143.4, 0.36717)
_RUNS, _SCATTER = 240, 0.0076
# Theirs is as many times slower; what one bootstrap takes does not depend on how many there are.
_THEIR_SHARE = 200


def rows(bench: Bench) -> Iterator[Row]:
    """Time of 4,000 bootstraps."""
    bootstraps, turns = bench.sized((4000, 5), (4000, 5), (200, 2))
    what = f"{bootstraps} bootstraps of {_RUNS} runs"
    bench.say(what)
    fitted = _made()
    rng = np.random.default_rng(1)
    weights = rng.multinomial(_RUNS, np.full(_RUNS, 1 / _RUNS), size=bootstraps).astype(float)
    few = weights[: max(1, bootstraps // _THEIR_SHARE)]
    # They are the same minima before one is said to be faster.
    theirs = np.array([_by_lbfgs(fitted, row)[1] for row in few])
    np.testing.assert_allclose(theirs, refit(fitted, weights=few).objective, rtol=1e-6)

    def all_at_once() -> Work:
        return lambda: refit(fitted, weights=weights)

    def one_by_one() -> Work:
        return lambda: [_by_lbfgs(fitted, row) for row in few]

    taken = take_turns(all_at_once, one_by_one, turns)
    scale = bootstraps / len(few)
    ours_s, theirs_s = taken.medians
    yield Row(
        what,
        f"torch's L-BFGS, one after another ({len(few)} timed, times {scale:g})",
        "time",
        ours_s / (theirs_s * scale),
        quartiles([a / (b * scale) for a, b in zip(taken.ours, taken.theirs, strict=True)]),
        0.02,
        True,
        {
            "ours_s": ours_s,
            "theirs_s": theirs_s * scale,
            "cpu_time_ratio": taken.cpu_ratio / scale,
            "turns": turns,
        },
    )


def _made() -> Fit:
    rng = np.random.default_rng(0)
    flops = np.exp(rng.uniform(np.log(6e18), np.log(1e22), _RUNS))
    n = np.exp(rng.uniform(np.log(5.7e7), np.log(1.6e10), _RUNS))
    d = flops / 6 / n
    losses = _LAW.loss(n, d) * np.exp(_SCATTER * rng.standard_normal(_RUNS))
    return fit(n, d, losses, delta=CHINCHILLA_DELTA)


def _by_lbfgs(fitted: Fit, weights: Array) -> tuple[Array, float]:
    """What is sought ``[P]``, and the objective there."""
    terms, target, weight = (
        torch.from_numpy(array) for array in (fitted.terms, np.log(fitted.loss), weights)
    )
    sought = torch.tensor(fitted.sought, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [sought],
        max_iter=500,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def objective() -> torch.Tensor:
        residuals = torch.logsumexp(terms @ sought, dim=0) - target
        huber = torch.nn.functional.huber_loss(
            residuals, torch.zeros_like(residuals), reduction="none", delta=fitted.delta
        )
        return (weight * huber).sum()

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = objective()
        value.backward()
        return value

    optimizer.step(closure)
    with torch.no_grad():
        return sought.numpy().copy(), float(objective())
