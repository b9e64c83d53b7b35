"""How a method is told in a comparison: what a comparison may know of it, without torch.

The one idea: a comparison has the figures and its own sentences; what only a method knows (what its
stages and settings are called, what must be alike for its losses to mean the same) it asks of the
method's story. This base tells any method in plain words, from what its ledger says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tst_megatron.runs.facts import TOPICS, Difference, Facts, Topic, differences
from tst_megatron.runs.stages import Fact, Stage


@dataclass(frozen=True)
class Told:
    """What a run tells of a method that it was trained by.

    Attributes:
        stages: those that the method shapes, each with its share of the run's steps; the share is
            None where it is not known.
        facts: the method's settings, as the ledger's header has them.
        flags: the run's arguments.
    """

    stages: tuple[tuple[Stage, float | None], ...]
    facts: Mapping[str, Any]
    flags: Mapping[str, Any]


class Story:
    """Of any method; a method's own overrides what it has better words for.

    Args:
        name: of the method.

    Attributes:
        topics: what must be alike in a run with the method and one that it is compared with.
        may_differ: what facts of those begin with that need not be alike.
        losses: names of the training losses that it has, with their units.
        facts: of its stages, with the values that they have in ordinary training.
        subject: what two groups of other settings of it are said to differ in.
        setting: under which name `schedule` stands in a table of settings.
        flags: those that `words` say, so that they set no further groups apart.
        title: what a report of runs with it is called by.
        explained: how figures of runs with it are to be read, a sentence each.
    """

    topics: ClassVar[tuple[Topic, ...]] = TOPICS
    may_differ: ClassVar[tuple[str, ...]] = ()
    losses: ClassVar[Mapping[str, str]] = {}
    facts: ClassVar[Mapping[str, Fact]] = {}
    flags: ClassVar[frozenset[str]] = frozenset()
    explained: ClassVar[tuple[str, ...]] = ()

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def subject(self) -> str:
        """The method's name."""
        return self.name

    @property
    def title(self) -> str:
        """The method's name."""
        return self.name

    @property
    def setting(self) -> str:
        """The method's stages."""
        return f"stages of {self.name}"

    def stage(self, facts: Mapping[str, Fact]) -> Stage | None:
        """What a stage with these facts is, of no length; None if they are not the method's."""
        return None

    def words(self, told: Told) -> str:
        """What a group of runs with these settings is called; empty where it changes nothing."""
        parts = [
            stage.name if share is None else f"{stage.name} for {percent(share)}"
            for stage, share in told.stages
        ]
        return " and ".join(parts) or self.name

    def schedule(self, told: Told | None) -> str:
        """Its stages with their samples for a table of settings; None is a run without it."""
        if told is None:
            return "none"
        return ", ".join(f"{stage.name} × {stage.samples:,}" for stage, _ in told.stages) or "on"

    def on_both_sides(self, group: str) -> str:
        """What is said of a baseline that has the method: it is the candidate's as a rule."""
        return (
            f'The baseline "{group}" had {self.name} itself: the comparison is of two ways to use '
            "it."
        )

    @property
    def absence(self) -> str:
        """What is said of a group without it, after its name."""
        return f"had no {self.name}"

    @property
    def swapped(self) -> str:
        """What is said where the baseline alone has it."""
        return (
            f"The sides look swapped: the baseline had {self.name} and the candidate had not, so "
            f"name the runs with {self.name} after --with."
        )


def percent(share: float) -> str:
    """A share such as ``12.5 %``."""
    return f"{100 * share:.1f}".removesuffix(".0") + " %"


def differences_told(
    topic: Topic, one: Facts, other: Facts, stories: Sequence[Story]
) -> list[Difference]:
    """The facts of a topic in which two runs differ and must not.

    Args:
        topic: one of `TOPICS`.
        one: of a run.
        other: of the other.
        stories: of all methods of both.
    """
    if any(topic not in story.topics for story in stories):
        return []
    apart = tuple(prefix for story in stories for prefix in story.may_differ)
    return [found for found in differences(topic, one, other) if not found[0].startswith(apart)]
