"""How fast a run is, and how long it has still to go, from what its steps have taken so far.

The one idea: stages have paces of their own, so each is measured by itself. One that has not begun
is taken to need as long for a sample as the last that was measured; what is spent between steps, on
validations and checkpoints, is added in proportion.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate

from tst_megatron.methods.events import Progress
from tst_megatron.report.formats import duration
from tst_megatron.runs.stages import Stage

# Of the newest interval in a stage's pace: a change of the machine shows within a few lines.
_WEIGHT = 0.3


class Pace:
    """Measures a run from one logged step to the next.

    Attributes:
        tokens_per_second: data tokens, over the last interval, without validations and checkpoints;
            None where nothing was measured.
    """

    def __init__(self) -> None:
        self.tokens_per_second: float | None = None
        self._seconds_a_sample: dict[int, float] = {}
        # Measured once: the first steps of a stage allocate and compile.
        self._begun: set[int] = set()
        self._last_stage = 0
        self._between = self._training = 0.0

    def measure(self, before: Progress, now: Progress, seconds: Mapping[str, float]) -> None:
        """Take in what came between two logged steps.

        Args:
            before: after the first of them, or where this process began.
            now: after the second.
            seconds: in between, as `tst_megatron.trainer.step_clock.StepClock.take` has them.
        """
        between = seconds["evaluation_s"] + seconds["checkpoint_s"]
        training = seconds["compute_s"] + seconds["other_s"] - between - seconds["startup_s"]
        samples = now.samples - before.samples
        if samples <= 0 or training <= 0.0:
            return
        self._between += between
        self._training += training
        self.tokens_per_second = (now.data_tokens - before.data_tokens) / training
        if before.samples == 0 or before.stage_index == now.stage_index:
            self._take(now.stage_index, training / samples)

    def _take(self, stage: int, seconds_a_sample: float) -> None:
        self._last_stage = stage
        if stage in self._begun:
            old = self._seconds_a_sample[stage]
            self._seconds_a_sample[stage] = old + _WEIGHT * (seconds_a_sample - old)
            return
        if stage in self._seconds_a_sample:
            self._begun.add(stage)
        self._seconds_a_sample[stage] = seconds_a_sample

    def seconds_left(self, stages: Sequence[Stage], samples: int) -> float | None:
        """Of the whole run; None where no pace was measured yet.

        Args:
            stages: of the run, as far as they are decided now.
            samples: trained on so far.
        """
        last = self._seconds_a_sample.get(self._last_stage)
        if last is None:
            return None
        ends = accumulate(stage.samples for stage in stages)
        training = sum(
            min(stage.samples, max(0, end - samples)) * self._seconds_a_sample.get(index, last)
            for index, (stage, end) in enumerate(zip(stages, ends, strict=True))
        )
        return training * (1.0 + self._between / self._training)

    def in_words(self, stages: Sequence[Stage], samples: int) -> str:
        """For the log line, in Megatron's form; empty where nothing was measured yet."""
        words = ""
        if self.tokens_per_second is not None:
            words += f" data tokens per second: {self.tokens_per_second:.1f} |"
        if (left := self.seconds_left(stages, samples)) is not None:
            words += f" time left: {duration(left)} |"
        return words
