"""How no-op experts are told in a comparison."""

from collections.abc import Mapping
from typing import ClassVar

from tst_megatron.methods.story import Story, Told
from tst_megatron.runs.stages import Fact, Stage


class NoopStory(Story):
    """In numbers of experts."""

    # At equal FLOPs a router chooses more of them, or there are more.
    may_differ: ClassVar[tuple[str, ...]] = (
        *("parameters with ", "num_experts", "moe_router_topk", "moe_ffn_hidden_size"),
    )
    facts: ClassVar[Mapping[str, Fact]] = {"noop_experts": 0}
    flags: ClassVar[frozenset[str]] = frozenset({"noop_experts"})
    explained: ClassVar[tuple[str, ...]] = (
        "FLOPs are without those of the choices that fell on no-op experts, as they were counted "
        "in each step, so compare at equal FLOPs and not at equal steps.",
    )
    title = "No-op experts"
    subject = "no-op experts"
    setting = "no-op experts"
    absence = "had no no-op experts"

    def stage(self, facts: Mapping[str, Fact]) -> Stage | None:
        """By their number."""
        number = facts.get("noop_experts")
        if not number:
            return None
        return Stage(f"{number} no-op experts", 0, method=self.name, facts=facts)

    def words(self, told: Told) -> str:
        """Such as ``4 no-op experts beside 8``."""
        number, experts = told.facts.get("noop_experts"), told.facts.get("experts")
        if not number:
            return super().words(told)
        return f"{number} no-op experts" + (f" beside {experts}" if experts else "")

    def schedule(self, told: Told | None) -> str:
        """Likewise."""
        return "none" if told is None else self.words(told)
