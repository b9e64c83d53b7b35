"""The settings of two runs: the main ones they share, and every one that differs.

The one idea: two runs compare cleanly only if their methods are all that differs, so whatever else
does is found here from the flags themselves and shown.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from tst_megatron.analysis.compare.stories import is_of_a_method, settings_of
from tst_megatron.runs.flag_roles import Role
from tst_megatron.runs.run import RecordedRun


@dataclass(frozen=True)
class Settings:
    """Settings as text.

    Attributes:
        shared: (name, value) of the main settings, where the runs agree.
        differing: (name, baseline, candidate) of all settings that differ.
        beyond_methods: names of those that are no method's own.
    """

    shared: tuple[tuple[str, str], ...]
    differing: tuple[tuple[str, str, str], ...]
    beyond_methods: tuple[str, ...]


def compare_settings(baseline: RecordedRun | None, candidate: RecordedRun | None) -> Settings:
    """Lay the settings of both runs side by side.

    A missing run differs in nothing, nor does a flag where one source tells no flags at all.
    """
    ours, theirs = (settings_of(run) if run else {} for run in (candidate, baseline))
    if not ours or not theirs:
        ours = theirs = ours or theirs
    kept = _comparable_names(ours, theirs)
    differing = [name for name in kept if _differ(theirs.get(name), ours.get(name))]
    main = [name for name in Role.SHOWN.value if ours.get(name) is not None]
    return Settings(
        tuple((name, _text(ours[name])) for name in main if name not in differing),
        tuple((name, _text(theirs.get(name)), _text(ours.get(name))) for name in differing),
        tuple(name for name in differing if not is_of_a_method(name)),
    )


def tells_flags(settings: Mapping[str, Any]) -> bool:
    """Whether a source told Megatron's arguments, as W&B exports do not.

    Args:
        settings: as of `stories.settings_of`.
    """
    return "train_iters" in settings or "num_layers" in settings


def known_differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Names of the settings that both sides tell and that differ, sorted.

    Args:
        one: as of `stories.settings_of`.
        other: likewise.
    """
    return sorted(name for name in one.keys() & other.keys() if _differ(one[name], other[name]))


def same_content(name: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether a setting is a path to what is the same on both sides, wherever it lies.

    By its hash where both sides tell one. Else of corpora by the names of their files; what a
    tokenizer is called says nothing of it.

    Args:
        name: of the setting.
        one: as of `stories.settings_of`, with the setting.
        other: likewise.
    """
    if name in Role.DATA.value:
        sha256 = "data sha256"
    elif name in Role.TOKENIZER.value:
        sha256 = "tokenizer sha256"
    else:
        return False
    if sha256 in one and sha256 in other:
        return not _differ(one[sha256], other[sha256])
    if name in Role.TOKENIZER.value:
        return True
    return _file_names(one[name]) == _file_names(other[name])


def _file_names(value: Any) -> list[str]:
    paths = value if isinstance(value, list | tuple) else [value]
    return [PurePath(str(path)).name for path in paths]


def _comparable_names(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Names of both, sorted; only those that both tell where one source tells no flags."""
    if tells_flags(ours) and tells_flags(theirs):
        return sorted(ours.keys() | theirs.keys())
    return sorted(ours.keys() & theirs.keys())


def _differ(one: Any, other: Any) -> bool:
    return bool(_plain(one) != _plain(other))


def _plain(value: Any) -> Any:
    """Without the difference between tuples and lists, which JSON does not know either."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)
