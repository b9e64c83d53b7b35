"""What growth adds to a plan: when to grow. The grown model is planned as any other."""

import argparse
from collections.abc import Sequence

from tst_megatron.methods.growth.when import WIDTH_GAINS_NOTHING, advice
from tst_megatron.methods.terms import Terms
from tst_megatron.runs.stages import Stage


class GrowthTerms(Terms):
    """Sentences alone: memory and operations of the steps before are those of another plan."""

    def notes(self, args: argparse.Namespace, stages: Sequence[Stage]) -> Sequence[str]:
        """When to grow; and that every step is counted as the grown model's."""
        positions = sum(stage.samples for stage in stages) * int(args.seq_length)
        of_depth = advice(args, positions) if args.grow is not None else ()
        of_width = (WIDTH_GAINS_NOTHING,) if args.grow_width is not None else ()
        return (
            "growth: every step is counted as one of the grown model; plan the small one by itself",
            *of_depth,
            *of_width,
        )
