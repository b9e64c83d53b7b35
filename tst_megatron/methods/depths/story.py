"""How mixture of depths is told in a comparison: by the share of the tokens in routed blocks."""

from collections.abc import Mapping
from typing import ClassVar

from tst_megatron.methods.story import Story, Told
from tst_megatron.runs.facts import TOPICS, Topic
from tst_megatron.runs.stages import Fact, Stage


class DepthStory(Story):
    """In shares of the tokens."""

    # At equal FLOPs a routed model has more layers.
    topics: ClassVar[tuple[Topic, ...]] = tuple(topic for topic in TOPICS if topic != "model")
    losses: ClassVar[Mapping[str, str]] = {"lm loss by rank": "nats a token"}
    facts: ClassVar[Mapping[str, Fact]] = {"block_capacity": 1.0, "least_block_capacity": 0.0}
    flags: ClassVar[frozenset[str]] = frozenset(
        {
            "mod_capacity",
            "mod_choice",
            "mod_every",
            "mod_layers",
            "mod_loss_coefficient",
            "mod_parts",
            "mod_sampling",
            "mod_threshold_decay",
            "mod_warmup_steps",
        }
    )
    explained: ClassVar[tuple[str, ...]] = (
        "A step of routed blocks costs fewer FLOPs than a step of the plain model, so compare at "
        "equal FLOPs and not at equal steps.",
        "The held-out loss is by the causal rule, by which a model can be used; where blocks take "
        "the highest scores of a sequence, as in training, they look ahead.",
        "Model and learning rate are as they were given: a routed model's best size at a number of "
        "FLOPs is larger than a plain one's (arXiv 2404.02258, figure 4).",
    )
    title = "Mixture of depths"
    subject = "routed blocks"
    setting = "share of the tokens in routed blocks"
    absence = "had no routed blocks"

    def stage(self, facts: Mapping[str, Fact]) -> Stage | None:
        """By the share."""
        share = facts.get("block_capacity")
        if not isinstance(share, int | float) or share == 1:
            return None
        words = f"{100 * share:.4g} % of the tokens in routed blocks"
        return Stage(words, 0, method=self.name, facts=facts)

    def words(self, told: Told) -> str:
        """Such as ``12.5 % in 4 routed blocks by predictor``."""
        blocks = [(block, share) for block, share in told.facts.get("blocks") or ()]
        if not blocks:
            return super().words(told)
        shares = sorted({share for _, share in blocks})
        percents = " to ".join(
            f"{100 * one:.4g} %" for one in dict.fromkeys((shares[0], shares[-1]))
        )
        how = told.facts.get("sampling")
        if told.facts.get("choice") == "random":
            how = "chance"
        words = f"{percents} in {len(blocks)} routed blocks by {how}"
        return f"{words}, warmed up" if told.facts.get("warmup_steps") else words

    def schedule(self, told: Told | None) -> str:
        """Likewise."""
        return "all" if told is None else self.words(told)
