"""The F distribution's tail: how often chance makes one mean square so many times another."""

import math
from functools import cache

# Terms of the continued fraction, of which some ten are needed where it converges fast.
_TERMS = 500
_TINY = 1e-300


def f_tail(ratio: float, above: float, below: float) -> float:
    """The chance that F is above a ratio.

    Args:
        ratio: of the mean squares, 0 or more.
        above: degrees of freedom of its numerator.
        below: of its denominator.
    """
    if math.isinf(ratio):
        return 0.0
    return _beta_share(below / (below + above * ratio), below / 2, above / 2)


@cache
def student_quantile(confidence: float, freedom: float) -> float:
    """How many standard errors a two-sided interval of Student's t reaches.

    Args:
        confidence: such as 0.95.
        freedom: degrees of freedom of the standard error, above 0.
    """
    low, high = 0.0, 1.0
    while f_tail(high * high, 1, freedom) > 1 - confidence:
        high *= 2
    # The square of t is an F of one degree above.
    while (middle := (low + high) / 2) not in (low, high):
        if f_tail(middle * middle, 1, freedom) > 1 - confidence:
            low = middle
        else:
            high = middle
    return middle


def _beta_share(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function (DLMF 8.17)."""
    if x <= 0 or x >= 1:
        return min(max(x, 0.0), 1.0)
    # Its fraction converges fast on this side; the other side is what is left of 1.
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_share(1 - x, b, a)
    log_front = a * math.log(x) + b * math.log1p(-x)
    log_front += math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(log_front) / a / _fraction(x, a, b)


def _fraction(x: float, a: float, b: float) -> float:
    """``1 + d1 / (1 + d2 / (1 + ...))`` of DLMF 8.17.22, from its front (Lentz's algorithm)."""
    value, c, d = 1.0, 1.0, 0.0
    for term in range(1, _TERMS):
        m = term // 2
        if term % 2:
            step = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            step = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / (1 + step * d or _TINY)
        c = 1 + step / c or _TINY
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value
