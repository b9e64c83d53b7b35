"""Epoch's replication of Chinchilla (arXiv 2404.10102, notebook of commit 9225883).

Its 245 points carry no licence and are not here. ``SCALING_CHINCHILLA_CSV`` names them for whoever
has them (data/svg_extracted_data.csv of epoch-research/analyzing-chinchilla).
"""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from made_laws import CHINCHILLA

from tst_megatron.analysis.scaling.design import expected
from tst_megatron.analysis.scaling.fitting import (
    CHINCHILLA_DELTA,
    LEAST_ABSOLUTE,
    Fit,
    fit,
)
from tst_megatron.analysis.scaling.intervals import DRAWS, Draws, draw

CSV = os.environ.get("SCALING_CHINCHILLA_CSV")
needs_points = pytest.mark.skipif(not CSV, reason="SCALING_CHINCHILLA_CSV names no file")
NAMES = ("E", "A", "alpha", "B", "beta")
# The notebook leaves out losses that are not below the fifth largest.
LEFT_OUT = 5


def published() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    with Path(CSV).open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = ("Model Size", "Training FLOP", "loss")
    n, flops, losses = (np.array([float(row[name]) for row in rows]) for name in names)
    kept = losses < np.sort(losses)[-LEFT_OUT]
    return n[kept], (flops / n / 6)[kept], losses[kept]


def made_points(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Sizes and lengths as far apart as Chinchilla's: 240, 6e18 to 1e22 FLOPs, 57M to 16B."""
    flops = np.exp(rng.uniform(np.log(6e18), np.log(1e22), 240))
    n = np.exp(rng.uniform(np.log(5.7e7), np.log(1.6e10), 240))
    return n, flops / 6 / n


def test_the_published_law_is_found_in_runs_made_of_it():
    rng = np.random.default_rng(1)
    n, d = made_points(rng)
    found = fit(n, d, CHINCHILLA.loss(n, d), delta=CHINCHILLA_DELTA)
    for name in NAMES:
        assert getattr(found.law, name) == pytest.approx(getattr(CHINCHILLA, name), rel=1e-8)
    losses = CHINCHILLA.loss(n, d) * np.exp(0.0076 * rng.standard_normal(240))
    noisy = fit(n, d, losses, delta=CHINCHILLA_DELTA)
    # Huber's constant far below the scatter leaves 2 / pi of least squares' efficiency, and a
    # chi-square variable of 5 degrees of freedom is above 33 four times in a million.
    covariance = expected(CHINCHILLA, n, d, rest=0.0076).covariance * np.pi / 2
    away = noisy.sought - noisy.form.sought(CHINCHILLA)
    assert away @ np.linalg.solve(covariance, away) < 33


@pytest.fixture(scope="module")
def epochs() -> Fit:
    return fit(*published(), delta=CHINCHILLA_DELTA)


@pytest.fixture(scope="module")
def draws(epochs) -> Draws:
    return draw(epochs, draws=DRAWS)


@needs_points
def test_the_huber_minimum(epochs):
    assert len(epochs.n) == 240
    assert epochs.converged
    assert epochs.objective == pytest.approx(0.00101827403, abs=2e-11)
    # To the last printed digit.
    for name, digit in zip(NAMES, (1e-5, 1e-2, 1e-5, 1e-1, 1e-5), strict=True):
        printed = pytest.approx(getattr(CHINCHILLA, name), abs=0.55 * digit)
        assert getattr(epochs.law, name) == printed


@needs_points
def test_what_the_points_tell(epochs):
    found = expected(epochs.law, epochs.n, epochs.d, rest=0.0076)
    assert (found.rank, round(found.condition)) == (5, 62)
    assert [round(error, 3) for error in (found.alpha, found.beta, found.a)] == [0.011, 0.01, 0.011]


@needs_points
def test_least_absolute_deviations_are_the_headline(epochs):
    found = fit(epochs.n, epochs.d, epochs.loss, delta=LEAST_ABSOLUTE)
    # The notebook's end is printed as not quite a minimum, of a likelihood with its own scale: to
    # the four digits of the headline, and not below ours.
    for name, printed in zip(NAMES, (1.8168, 482.01, 0.3478, 2085.43, 0.3658), strict=True):
        assert getattr(found.law, name) == pytest.approx(printed, rel=3e-4)
    theirs = 1.81686 + 482.00572 / epochs.n**0.34781 + 2085.43420 / epochs.d**0.36585
    distances = np.abs(np.log(theirs) - np.log(epochs.loss)).sum()
    # Huber's own loss is below the distances by half of its constant a run.
    assert np.abs(found.residuals).sum() < distances + 240 * LEAST_ABSOLUTE / 2


# Theirs and ours are both of 4,000 draws: a standard deviation of so many has a relative standard
# error of 1.1 %, more where tails are heavy as those of A and B are; a quantile at 2.5 % one of
# 2.7 / sqrt(4000) = 4.2 % of a standard deviation. Four of those, of a difference of two.
SPREAD_WITHIN, QUANTILE_WITHIN = 4 * 2**0.5 * 0.011, 4 * 2**0.5 * 0.042


@needs_points
@pytest.mark.parametrize(
    ("name", "error", "low", "high", "tails"),
    [
        ("E", 0.02566, 1.769, 1.871, 1),
        ("A", 124.52, 285.2, 743.6, 3),
        ("alpha", 0.01540, 0.317, 0.373, 1),
        ("B", 1293.28, 1042.4, 5810.3, 6),
        ("beta", 0.02060, 0.331, 0.415, 1),
    ],
)
def test_bootstraps_of_pairs(draws, name, error, low, high, tails):
    assert draws.kind == "pairs"
    assert draws.converged > 0.999
    values = getattr(draws.laws, name)
    assert values.std() == pytest.approx(error, rel=SPREAD_WITHIN * tails)
    found = draws.interval(lambda law: getattr(law, name))
    # Quantiles of a skewed figure move with its logarithm.
    for end, printed in ((found.low, low), (found.high, high)):
        within = QUANTILE_WITHIN * error / getattr(draws.law, name)
        assert np.log(end / printed) == pytest.approx(0, abs=within)


@needs_points
def test_what_follows_for_gopher_s_budget(draws):
    a = draws.interval(lambda law: law.exponents().a)
    assert draws.laws.exponents().a.std() == pytest.approx(0.020, rel=SPREAD_WITHIN + 0.025)
    assert (a.low, a.high) == (pytest.approx(0.480, abs=0.004), pytest.approx(0.556, abs=0.006))
    ratio = draws.interval(lambda law: law.optimum(5.76e23).tokens_per_parameter)
    assert ratio.value == pytest.approx(17.9, abs=0.05)
    assert ratio.low == pytest.approx(7.6, rel=0.1)
    assert ratio.high == pytest.approx(35.9, rel=0.1)
