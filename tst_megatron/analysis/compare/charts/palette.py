"""Which groups a chart shows, and in which colours.

The one idea: Okabe and Ito's colours differ for every kind of colour vision; the baseline's greys
are dashed besides, so that a print in black and white keeps the sides apart.
"""

from dataclasses import dataclass
from typing import Literal

from tst_megatron.analysis.compare.findings import Findings
from tst_megatron.analysis.compare.groups import Group

_GREYS = ("#4d5156", "#70767c", "#8f959b", "#a9afb5")
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


@dataclass(frozen=True)
class Shown:
    """A group as charts show it."""

    group: Group
    colour: str
    dash: Literal["solid", "dash"]


def shown(findings: Findings) -> list[Shown]:
    """The groups that have a colour: up to four lengths of the baseline, six TST groups."""
    return [
        *(Shown(*one, "dash") for one in zip(findings.baseline, _GREYS, strict=False)),
        *(Shown(*one, "solid") for one in zip(findings.tst, _COLOURS, strict=False)),
    ]


def colour_of(findings: Findings, group: Group) -> str | None:
    """A group's colour; None if charts leave it to the tables."""
    return next((one.colour for one in shown(findings) if one.group is group), None)


def left_out(findings: Findings) -> int:
    """How many groups charts do not show."""
    return len(findings.baseline) + len(findings.tst) - len(shown(findings))
