"""How token superposition is told in a comparison: by the sizes of its bags and their shares."""

from collections.abc import Mapping
from typing import ClassVar

from tst_megatron.methods.story import Story, Told, percent
from tst_megatron.runs.stages import ORDINARY, Fact, Stage

_LOSS = "bag loss"
_WORDS = {
    "superpose": {"input": "input only", "output": "output only"},
    "objective": {"mce-alt": "mce-alt"},
    "bag_boundary": {"document": "within documents"},
}


class SuperpositionStory(Story):
    """In bags."""

    losses: ClassVar[Mapping[str, str]] = {_LOSS: "nats a token"}
    facts: ClassVar[Mapping[str, Fact]] = {"bag_size": 1}
    # What a schedule in stages says already, in whichever flags it was written; and how the loss is
    # computed, which moves the clock, and losses by rounding alone.
    flags: ClassVar[frozenset[str]] = frozenset(
        {
            "tst_bag_boundary",
            "tst_bag_size",
            "tst_bag_weights",
            "tst_logits_chunk_size",
            "tst_loss_implementation",
            "tst_objective",
            "tst_schedule",
            "tst_step_ratio",
            "tst_superpose",
        }
    )
    explained: ClassVar[tuple[str, ...]] = (
        "The held-out loss is that of single tokens also while training is on bags, where it is a "
        "nat or more higher.",
        "In bags of s a position reads s data tokens. FLOPs count positions: a step costs the same "
        "in bags and in single tokens.",
    )
    title = "Token superposition (TST)"
    subject = "bags"
    setting = "bags (size × samples)"
    absence = "saw no bags"
    swapped = (
        "The sides look swapped: the baseline saw bags and the candidate did not, so name the "
        "runs with bags after --with."
    )

    def stage(self, facts: Mapping[str, Fact]) -> Stage | None:
        """By the size of its bags."""
        size = facts.get("bag_size")
        if not isinstance(size, int):
            return None
        if size == 1:
            return Stage(ORDINARY, 0, facts=facts)
        return Stage(f"bags of {size}", 0, size, _LOSS, self.name, facts)

    def words(self, told: Told) -> str:
        """Such as ``bags of 4 for 25 %``."""
        stages = [(size, share) for stage, share in told.stages if (size := _size(stage)) > 1]
        if not stages:
            return ""
        auto = told.flags.get("tst_schedule")
        if isinstance(auto, str) and auto.startswith("auto"):
            # The switch is decided by measurement, so it is at another step in every run.
            words = [f"bags by measurement ({auto})"]
        else:
            parts = [
                f"of {size}" if share is None else f"of {size} for {percent(share)}"
                for size, share in stages
            ]
            words = [f"bags {' and '.join(parts)}"]
        for name, of_value in _WORDS.items():
            if told.facts.get(name) in of_value:
                words.append(of_value[told.facts[name]])
        if told.facts.get("bag_weights", "uniform") != "uniform":
            words.append(f"{told.facts['bag_weights']} weights")
        return ", ".join(words)

    def schedule(self, told: Told | None) -> str:
        """Such as ``4 × 20,000``."""
        stages = () if told is None else told.stages
        return ", ".join(f"{_size(stage)} × {stage.samples:,}" for stage, _ in stages) or "none"

    def on_both_sides(self, group: str) -> str:
        """In bags."""
        return f'The baseline "{group}" saw bags itself: the comparison is of two ways to use them.'


def _size(stage: Stage) -> int:
    size = stage.facts.get("bag_size", 1)
    return size if isinstance(size, int) else 1
