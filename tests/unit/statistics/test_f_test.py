import numpy as np
import pytest

from tst_megatron.statistics.f_test import f_tail, student_quantile


# Closed forms: F of (1, 1) is a squared Cauchy variable; with two degrees of freedom above or below
# the tail is a power.
@pytest.mark.parametrize("ratio", [1e-6, 0.3, 1.0, 4.0, 161.4, 1e9])
def test_closed_forms(ratio):
    cauchy = 1 - 2 / np.pi * np.arctan(np.sqrt(ratio))
    assert f_tail(ratio, 1, 1) == pytest.approx(cauchy, rel=1e-9, abs=1e-15)
    for freedom in (1, 5, 60):
        power = (1 + 2 * ratio / freedom) ** (-freedom / 2)
        assert f_tail(ratio, 2, freedom) == pytest.approx(power, rel=1e-11)
        other = 1 - (1 + 2 / (ratio * freedom)) ** (-freedom / 2)
        assert f_tail(ratio, freedom, 2) == pytest.approx(other, rel=1e-9, abs=1e-14)


def test_the_share_of_drawn_ratios_above_it():
    rng = np.random.default_rng(1)
    ratios = rng.chisquare(7, 200_000) / 7 / (rng.chisquare(31, 200_000) / 31)
    for ratio in (0.5, 1.0, 2.2, 3.5):
        share = (ratios > ratio).mean()
        # Five standard errors of a share.
        assert f_tail(ratio, 7, 31) == pytest.approx(share, abs=5 * np.sqrt(share / 200_000))


def test_ends():
    assert f_tail(0.0, 3, 4) == 1
    assert f_tail(np.inf, 3, 4) == 0


@pytest.mark.parametrize(
    ("freedom", "reach"), [(1, 12.7062), (2, 4.30265), (5, 2.57058), (60, 2.00030)]
)
def test_student_s_intervals_reach_as_far_as_tables_say(freedom, reach):
    # NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2, and 1 degree from tan(0.475 pi).
    assert student_quantile(0.95, freedom) == pytest.approx(reach, rel=1e-5)
