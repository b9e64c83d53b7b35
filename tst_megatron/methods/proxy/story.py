"""How text in two forms is told, in a log line and in a comparison."""

from collections.abc import Mapping
from typing import ClassVar

from tst_megatron.methods.story import Story, Told, percent
from tst_megatron.runs.stages import ORDINARY, Fact, Stage


def stage_name(facts: Mapping[str, Fact]) -> str:
    """Such as ``90 % compressed``, or with the share of pairs."""
    rate, pairs = facts.get("compressed_share") or 0.0, facts.get("paired_share") or 0.0
    assert isinstance(rate, float | int), "a share is a number"
    assert isinstance(pairs, float | int), "a share is a number"
    if not rate and not pairs:
        return ORDINARY
    return f"{percent(rate)} compressed" + (f" ({percent(pairs)} in pairs)" if pairs else "")


class ProxyStory(Story):
    """In rates of compressed text."""

    facts: ClassVar[Mapping[str, Fact]] = {"compressed_share": 0.0, "paired_share": 0.0}
    flags: ClassVar[frozenset[str]] = frozenset({"proxy_schedule", "proxy_pairs", "proxy_ratio"})
    explained: ClassVar[tuple[str, ...]] = (
        "Training losses of stages with compressed text are of other ids than bytes: compare "
        "held-out losses, which are of bytes on both sides.",
    )
    title = "Proxy compression"
    subject = "proxy compression"
    setting = "compressed text"
    absence = "had no compressed text"

    def stage(self, facts: Mapping[str, Fact]) -> Stage | None:
        """By its rate."""
        name = stage_name(facts)
        return None if name == ORDINARY else Stage(name, 0, method=self.name, facts=facts)

    def words(self, told: Told) -> str:
        """As the flags have it, such as ``compressed 0.4-0.9:0.2,0.9, pairs 0.2``."""
        facts = told.facts
        if not facts.get("schedule"):
            return super().words(told)
        pairs, ratio = facts.get("pairs"), facts.get("ratio", 1.0)
        beside = [f"pairs {pairs}"] if pairs else []
        beside += [f"ratio {ratio:g}"] if ratio != 1.0 else []
        return ", ".join([f"compressed {facts['schedule']}", *beside])

    def schedule(self, told: Told | None) -> str:
        """Likewise."""
        return "none" if told is None else self.words(told)
