"""When a superposed stage should end, from the bag losses that its run has measured.

The one idea: the FLOPs of every step are equal, so superposing is worth its next step as long as
that step gains more on bags than recovery is expected to gain by having one step more. Both gains
come from one curve, the held-out bag loss over the steps n, once the learning rate is warm:

- the loss falls by about b nats each time n grows e-fold, so a step gains b / n. For the step at
  hand b is fitted to the last doubling of n alone: a curve that flattens out is seen there first;
- recovery is expected to learn at √s times the b of the whole curve, so that its last step of N - n
  gains √s · b / (N - n). A nat on bags is worth less than one on tokens, and the less the larger
  the bag; √s is what the sensitivity table of arXiv 2605.06546 (270M, 20,000 steps) says of it,
  where the best share r of the steps has r / (1 - r) near 1 / √s from s = 2 to 16.

So a curve that is straight over log n ends its stage at the share 1 / (1 + √s); one that flattens
out ends it before. What the next-token loss is meanwhile does not matter: the spike after the
switch has to be recovered from once, wherever the switch is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, log, sqrt

VERSION = 1
"""Of the rule: a run does not go on under another one than it began with."""
LEAD_STEPS = 16
"""Steps from a measurement to the switch that follows from it: what data loaders have read ahead
meanwhile stays as it is. The same in every layout, so that a layout decides nothing."""
MIN_POINTS = 4
"""Measurements that a line is fitted to, at least: their noise is of the size of their fall."""


@dataclass(frozen=True)
class Point:
    """A validation.

    Attributes:
        step: optimizer steps.
        bag_loss: held-out, nats a token, as in the ledger.
    """

    step: int
    bag_loss: float


@dataclass(frozen=True)
class Rule:
    """What a decision depends on beside the measurements.

    Attributes:
        bag_size: s.
        train_iters: N, steps of the whole run.
        warmup_steps: of the learning rate; what is measured in them is left out.
        first_switch: the step after which the stage may end at the earliest.
        last_switch: the step after which it ends at the latest.
    """

    bag_size: int
    train_iters: int
    warmup_steps: int
    first_switch: int
    last_switch: int

    def switch_of(self, step: int) -> int:
        """After which step the stage ends where a measurement after this one says so."""
        return step + LEAD_STEPS

    def may_switch(self, step: int) -> bool:
        """Whether a measurement after this step can end the stage."""
        return self.first_switch <= self.switch_of(step) < self.last_switch


@dataclass(frozen=True)
class Decision:
    """That the superposed stage ends before it must.

    Attributes:
        measured_at: the step whose validation said so.
        switch_step: the step after which it ends.
        gain_now: nats a step, on bags, at the switch.
        gain_expected: nats a step that recovery is expected to gain at its end.
    """

    measured_at: int
    switch_step: int
    gain_now: float
    gain_expected: float

    def in_words(self) -> str:
        """For the log, in a line."""
        return (
            f"the superposed stage ends after step {self.switch_step}, decided at step "
            f"{self.measured_at}: a step on bags gains {self.gain_now:.3g} nats, and the last step "
            f"of recovery is expected to gain {self.gain_expected:.3g}"
        )


def decide(points: Sequence[Point], rule: Rule) -> Decision | None:
    """The first decision that the measurements of a run lead to; None as long as there is none.

    Args:
        points: ascending in steps; those without a finite loss are passed over.
        rule: of the run.
    """
    measured = [p for p in points if p.step > rule.warmup_steps and isfinite(p.bag_loss)]
    for end in range(MIN_POINTS, len(measured) + 1):
        so_far = measured[:end]
        step = so_far[-1].step
        recent = [p for p in so_far if 2 * p.step >= step]
        if not rule.may_switch(step) or len(recent) < MIN_POINTS:
            continue
        switch = rule.switch_of(step)
        gain_now = _slope(recent) / switch
        expected = sqrt(rule.bag_size) * _slope(so_far) / (rule.train_iters - switch)
        if gain_now <= max(0.0, expected):
            return Decision(step, switch, gain_now, expected)
    return None


def _slope(points: Sequence[Point]) -> float:
    """Nats that the bag loss falls by while the steps grow e-fold: a line, by least squares."""
    ages = [log(point.step) for point in points]
    mean_age = sum(ages) / len(ages)
    mean_loss = sum(point.bag_loss for point in points) / len(points)
    spread = sum((age - mean_age) ** 2 for age in ages)
    falls = sum(
        (age - mean_age) * (mean_loss - point.bag_loss)
        for age, point in zip(ages, points, strict=True)
    )
    return falls / spread
