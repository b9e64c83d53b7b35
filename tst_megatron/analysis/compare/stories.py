"""What methods say of the runs that are compared: the comparison's way to their stories.

The one idea: a run names the methods that it was trained by, the registry has their stories, and
no other file of the comparison asks either. A method that is not in the registry any more is told
in plain words.
"""

from collections.abc import Iterator, Mapping
from functools import cache

from tst_megatron.methods import registry
from tst_megatron.methods.story import Story, Told, differences_told
from tst_megatron.runs.facts import Difference, MethodFacts, Topic
from tst_megatron.runs.run import RecordedRun
from tst_megatron.runs.spans import Span
from tst_megatron.runs.stages import Fact, Stage, Vocabulary, stage_of_facts


@cache
def every_story() -> tuple[Story, ...]:
    """Of all methods that there are."""
    return tuple(method.story() for method in registry.methods())


def vocabulary() -> Vocabulary:
    """What methods call things, for sources that do not tell of their methods."""
    stories = every_story()
    return Vocabulary(
        losses=tuple(name for story in stories for name in story.losses),
        facts=ordinary_facts(),
        stage=_stage,
    )


def ordinary_facts() -> Mapping[str, Fact]:
    """The facts that stages of some method have, with their values in ordinary training."""
    return {name: value for story in every_story() for name, value in story.facts.items()}


def facts_in_full(span: Span) -> Mapping[str, Fact]:
    """A stage's facts, those of ordinary training among them."""
    return {**ordinary_facts(), **span.stage.facts}


def told_in(run: RecordedRun) -> Iterator[tuple[Story, Told]]:
    """The methods that a run tells of, each with what it tells."""
    known = {story.name: story for story in every_story()}
    for method in _methods(run):
        stages = _planned(run, method) if method.stages else _seen(run, method.name)
        told = Told(tuple(stages), method.facts, run.facts.flags)
        yield known.get(method.name) or Story(method.name), told


def stories_of(run: RecordedRun) -> list[Story]:
    """Of the methods that change something in a run."""
    return [story for story, told in told_in(run) if story.words(told)]


def words_of(run: RecordedRun) -> str:
    """What a run's methods call its settings; empty for an ordinary run."""
    return ", ".join(filter(None, (story.words(told) for story, told in told_in(run))))


def differences_between(topic: Topic, run: RecordedRun, other: RecordedRun) -> list[Difference]:
    """The facts of a topic in which two runs differ, so that comparing them means nothing."""
    stories = [*stories_of(run), *stories_of(other)]
    return differences_told(topic, run.facts, other.facts, stories)


def settings_of(run: RecordedRun) -> dict[str, object]:
    """All that a run tells of how it was trained, under one set of names.

    What its header tells as `Facts.settings` has it, and the stages of every method that there is
    where the header tells of methods.
    """
    found = dict(run.facts.settings)
    if run.facts.methods is None:
        return found
    told = {story.name: (story, told) for story, told in told_in(run)}
    for story in every_story():
        found[story.setting] = story.schedule(told[story.name][1] if story.name in told else None)
    return found | {
        story.setting: story.schedule(of) for name, (story, of) in told.items() if name not in found
    }


def is_of_a_method(name: str) -> bool:
    """Whether a setting is a method's own."""
    is_flag = any(method.has_argument(name) for method in registry.methods())
    return is_flag or name in _names_of_stages()


def is_in_words(name: str) -> bool:
    """Whether a setting is in the words for a run's methods already."""
    return name in _names_of_stages() or any(name in story.flags for story in every_story())


def _names_of_stages() -> set[str]:
    return {story.setting for story in every_story()}


def _stage(facts: Mapping[str, Fact]) -> Stage:
    found = (story.stage(facts) for story in every_story())
    return next((stage for stage in found if stage is not None), None) or stage_of_facts(facts)


def _methods(run: RecordedRun) -> list[MethodFacts]:
    """Those that the header tells, else those of the stages that the run went through."""
    if run.facts.methods is not None:
        return list(run.facts.methods)
    names = dict.fromkeys(name for span in run.stages for name in _methods_in(span.stage))
    return [MethodFacts(name, (), {}) for name in names]


def _planned(run: RecordedRun, method: MethodFacts) -> Iterator[tuple[Stage, float | None]]:
    size = run.facts.batch_size
    total = run.num_steps * size if size is not None else 0
    for stage in method.stages:
        if not stage.is_ordinary:
            yield stage, stage.samples / total if total else None


def _seen(run: RecordedRun, name: str) -> Iterator[tuple[Stage, float | None]]:
    for span in run.stages:
        if name in _methods_in(span.stage):
            yield span.stage, span.num_steps / run.num_steps


def _methods_in(stage: Stage) -> list[str]:
    """Their names, as `merged` puts them together."""
    return stage.method.split(", ") if stage.method else []
