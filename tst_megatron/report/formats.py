"""Numbers as a reader sees them, the same in the page, the terminal and the charts."""

from collections.abc import Callable

from tst_megatron.statistics.interval import Interval

UNKNOWN = "–"
NO_RANGE = "none"
# Losses are shown to 0.001 nats; a smaller difference is shown as none.
_SHOWN_DIFFERENCE = 0.0005
_SCALES = ((1e12, "T"), (1e9, "B"), (1e6, "M"))


def count(value: float | None) -> str:
    """Whole numbers; from a million on in three figures with M, B or T."""
    if value is None:
        return UNKNOWN
    scale = next(((size, letter) for size, letter in _SCALES if value >= size), None)
    return f"{value:,.0f}" if scale is None else f"{value / scale[0]:.3g} {scale[1]}"


def flops(value: float | None) -> str:
    """As 1.234e+15."""
    return UNKNOWN if value is None else f"{value:.4g}"


def duration(seconds: float | None) -> str:
    """As 1h 02m, 3m 04s or 5.6s."""
    if seconds is None:
        return UNKNOWN
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    return f"{minutes // 60:,}h {minutes % 60:02d}m"


def amount(value: float | None) -> str:
    """Hours, kilowatt-hours or money, in three figures or all before the point."""
    if value is None:
        return UNKNOWN
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def loss(value: float | None) -> str:
    """Nats a token."""
    return UNKNOWN if value is None else f"{value:.3f}"


def signed(value: float | None) -> str:
    """A difference with its sign."""
    if value is None:
        return UNKNOWN
    return "0.000" if abs(value) < _SHOWN_DIFFERENCE else f"{value:+.3f}".replace("-", "−")


def ratio(value: float | None) -> str:
    """As 1.23×."""
    return UNKNOWN if value is None else f"{value:.2f}×"


def ratio_range(interval: Interval) -> str:
    """The ends of a ratio's interval."""
    return _range(interval, "{:.2f}".format)


def difference_range(interval: Interval) -> str:
    """The ends of a difference's interval."""
    return _range(interval, signed)


def percent(confidence: float) -> str:
    """As 95 % or 99.5 %."""
    return f"{100 * confidence:.6g} %"


def _range(interval: Interval, show: Callable[[float], str]) -> str:
    if interval.value is None:
        return UNKNOWN
    low, high = interval.low, interval.high
    if low is None:
        return NO_RANGE if high is None else f"up to {show(high)}"
    return f"{show(low)} or more" if high is None else f"{show(low)} to {show(high)}"
