"""What upcycling adds to a plan: that the dense steps are another's."""

import argparse
from collections.abc import Sequence

from tst_megatron.methods.terms import Terms
from tst_megatron.runs.stages import Stage


class UpcyclingTerms(Terms):
    """A sentence alone: the model with experts is planned as any other."""

    def notes(self, args: argparse.Namespace, stages: Sequence[Stage]) -> Sequence[str]:
        """That every step is counted as the model's with experts."""
        return (
            "upcycling: every step is counted as one of the model with experts; what the dense "
            "model was trained for comes to it (chain plan counts both)",
        )
