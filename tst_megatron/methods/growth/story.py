"""How growth is told in a comparison."""

from collections.abc import Mapping
from typing import ClassVar

from tst_megatron.methods.growth.width import SIZES, in_words
from tst_megatron.methods.story import Story, Told, percent
from tst_megatron.runs.facts import TOPICS, Topic
from tst_megatron.runs.stages import Fact, Stage


class GrowthStory(Story):
    """In layers and widths: how many there were, for how long, and how they became more."""

    absence = "did not grow"
    # Both controls are compared with: the large model from scratch, and the small one trained on.
    topics: ClassVar[tuple[Topic, ...]] = tuple(topic for topic in TOPICS if topic != "model")
    facts: ClassVar[Mapping[str, Fact]] = dict.fromkeys(("num_layers", *SIZES))
    flags: ClassVar[frozenset[str]] = frozenset(
        {"grow", "grow_noise", "grow_optimizer", "grow_width"}
    )
    explained: ClassVar[tuple[str, ...]] = (
        "What the smaller model's steps cost is counted: in FLOPs and data from its checkpoint, in "
        "GPU hours from its ledger where that is there.",
    )

    @property
    def subject(self) -> str:
        """What two ways to grow differ in."""
        return "how the model grew"

    @property
    def title(self) -> str:
        """In a word."""
        return "Model growth"

    def words(self, told: Told) -> str:
        """Such as ``2 layers for 25 %, then stack to 8``."""
        facts = told.facts
        before, after = facts.get("layers") or (None, None)
        sizes = facts.get("sizes")
        small = " and ".join(
            stage.name if share is None else f"{stage.name} for {percent(share)}"
            for stage, share in told.stages
            if isinstance(stage, Stage)
        )
        grown = []
        if facts.get("operator") or not facts.get("width"):
            grown = [f"{facts.get('operator', 'grown')} to {after}" if after else "grown"]
        if facts.get("width"):
            wider = f"{in_words(sizes)} by" if sizes else "wider by"
            grown.append(f"{wider} {facts['width']}")
        noise = f" with noise {facts['noise']:g}" if facts.get("noise") else ""
        new = ", new optimizer" if facts.get("optimizer") == "new" else ""
        return f"{small or f'{before} layers'}, then {' and '.join(grown)}{noise}{new}"
