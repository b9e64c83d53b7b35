import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tst_megatron.report.chart import MOST_POINTS, thin


@given(st.integers(1, 9000), st.data())
def test_thinning_keeps_the_spikes(size: int, data: st.DataObject) -> None:
    spike = data.draw(st.integers(0, size - 1))
    ys = np.sin(np.arange(size, dtype=float))
    ys[spike] = 50.0
    xs, kept = thin(np.arange(size, dtype=float), ys)
    assert xs.size <= MOST_POINTS
    assert xs[np.argmax(kept)] == spike
    assert (np.diff(xs) > 0).all()
    assert (kept == ys[xs.astype(int)]).all()


def test_a_short_series_is_left_as_it_is() -> None:
    xs = np.arange(10.0)
    ys = np.where(xs == 3, np.nan, xs)
    assert thin(xs, ys)[1] is ys
