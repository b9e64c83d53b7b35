"""Where the links of a chain begin in its ledger, whatever each of them changed.

The one idea: every start of a run writes a header, and the links of a chain save in folders of
their own. So a link begins where a header has another folder than the one before, and is called by
it. A run that started over in one folder has no links.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any


@dataclass(frozen=True)
class LinkStart:
    """Where a link begins.

    Attributes:
        name: of its folder, without the link's number before it.
        after: the step that it goes on from; 0 of the first.
    """

    name: str
    after: int


def links_of(headers: Sequence[Mapping[str, Any]]) -> tuple[LinkStart, ...]:
    """The links of a run in their order; none of a run that is no chain.

    Args:
        headers: of all its starts, in their order.
    """
    flags = [header.get("flags") or {} for header in headers]
    if not any(of.get("load_once") for of in flags):
        return ()
    found: list[tuple[PurePath, int]] = []
    for header, of in zip(headers, flags, strict=True):
        folder, step = of.get("save"), int(header["step"])
        if not isinstance(folder, str):
            continue
        # A start that goes back takes the links that began there with it.
        while found and found[-1][0] != PurePath(folder) and found[-1][1] >= step > 0:
            found.pop()
        if not found or found[-1][0] != PurePath(folder):
            found.append((PurePath(folder), step))
    if len(found) < 2:
        return ()
    names = _names([folder for folder, _ in found])
    return tuple(LinkStart(name, after) for name, (_, after) in zip(names, found, strict=True))


def links_in_words(links: Sequence[LinkStart], last_step: int) -> str:
    """Such as ``A chain of 2 links: small to step 250, grown to step 1,000.``"""
    ends = [*(link.after for link in links[1:]), last_step]
    told = ", ".join(f"{link.name} to step {end:,}" for link, end in zip(links, ends, strict=True))
    return f"A chain of {len(links)} links: {told}."


def _names(folders: list[PurePath]) -> list[str]:
    """Of each its last part in which not all are alike."""
    parts = [folder.parts for folder in folders]
    while len({of[-1] for of in parts}) == 1 and all(len(of) > 1 for of in parts):
        parts = [of[:-1] for of in parts]
    return [of[-1].removeprefix(f"{number}-") for number, of in enumerate(parts, 1)]
