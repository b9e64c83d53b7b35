import numpy as np
from made_curves import evaluated_at, law, made_group, made_run

from tst_megatron.analysis.compare.group_curve import group_curve

STEPS = evaluated_at(4000, 40)


def test_costs_that_were_not_counted_are_unknown():
    """A ratio to nothing would be 0, with an interval from 0 to 0."""
    curve = group_curve(made_group(made_run(STEPS, law(STEPS), flops_a_step=0)))
    assert curve is not None
    assert np.isnan(curve.costs_at("flops", STEPS)).all()
    np.testing.assert_array_equal(curve.costs_at("wall_clock_s", STEPS), [STEPS])
