"""How upcycling is told in a comparison."""

from collections.abc import Mapping
from typing import ClassVar

from tst_megatron.methods.story import Story, Told, percent
from tst_megatron.methods.upcycling.experts import Upcycling, facts_of
from tst_megatron.runs.facts import TOPICS, Topic
from tst_megatron.runs.stages import Fact, Stage


class UpcyclingStory(Story):
    """In experts: how long there were none, or fewer, and how they were made."""

    absence = "was not upcycled"
    # Experts from scratch and the dense model trained on are both compared with.
    topics: ClassVar[tuple[Topic, ...]] = tuple(topic for topic in TOPICS if topic != "model")
    facts: ClassVar[Mapping[str, Fact]] = {"num_experts": None}
    flags: ClassVar[frozenset[str]] = frozenset(
        {"upcycle", "upcycle_from", *(f"upcycle_{name}" for name in facts_of(Upcycling()))}
    )
    explained: ClassVar[tuple[str, ...]] = (
        "What the steps before there were experts cost is counted: in FLOPs and data from the "
        "checkpoint, in GPU hours from its ledger where that is there.",
    )

    @property
    def subject(self) -> str:
        """What two ways to upcycle differ in."""
        return "how experts were made"

    @property
    def title(self) -> str:
        """In a word."""
        return "Sparse upcycling"

    def words(self, told: Told) -> str:
        """Such as ``dense for 25 %, then 8 experts, 2 a token, drop 0.5``."""
        facts = told.facts
        before, after = facts.get("experts") or (None, None)
        first = " and ".join(
            stage.name if share is None else f"{stage.name} for {percent(share)}"
            for stage, share in told.stages
            if isinstance(stage, Stage)
        )
        if not first:
            first = f"{before} experts" if before else "dense"
        made = f"{after} experts, {facts.get('topk')} a token" if after else "experts"
        more = [f"{name} {facts[name]:g}" for name in ("drop", "noise") if facts.get(name)]
        if facts.get("scale") == "none":
            more.append("not scaled")
        if facts.get("optimizer") == "keep":
            more.append("moments kept")
        return f"{first}, then {', '.join((made, *more))}"
