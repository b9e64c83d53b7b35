"""One whole run, as a scaling law sees it."""

from dataclasses import dataclass

BASELINE = "baseline"
"""The setting of runs without any method."""


@dataclass(frozen=True)
class Point:
    """A run.

    Attributes:
        name: as a reader knows it.
        setting: `BASELINE`, or what its methods call their settings.
        total: parameters, all of them; None where not told.
        active: those that work on a token, embeddings' tables left out; None where not told.
        positions: trained on, in all (D).
        loss: held-out, at its end, in the unit of its law.
        flops: in all; None where not told.
        data_tokens: read in all; with bags more than positions.
        unique_tokens: of text there was to read; None where nothing was read twice or it is not
            known.
        seed: of it; None where not told.
        learning_rate: the highest; None likewise.
        warmup_share: of its steps; None likewise.
        has_experts: None likewise.
    """

    name: str
    setting: str
    total: float | None
    positions: float
    loss: float
    active: float | None = None
    flops: float | None = None
    data_tokens: float | None = None
    unique_tokens: float | None = None
    seed: int | None = None
    learning_rate: float | None = None
    warmup_share: float | None = None
    has_experts: bool | None = None

    @property
    def epochs(self) -> float:
        """How often it reads its text; 1 where that is not known to be more."""
        read = self.positions if self.data_tokens is None else self.data_tokens
        if self.unique_tokens is None:
            return 1.0
        return max(1.0, read / self.unique_tokens)
