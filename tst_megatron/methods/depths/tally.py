"""Figures of a routed block's tokens, summed where they are made, read when they are asked for."""

from typing import Any

import torch
from torch import Tensor

NAMES = (
    *("tokens", "score", "score_squared", "chosen", "passing", "agreeing"),
    *("lowest", "parts", "loss", "losses"),
)


class Tally:
    """Sums since the last `take`, on the device, without a wait for it."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    def add(
        self,
        scores: Tensor,
        picked: Tensor,
        passes: Tensor,
        lowest: Tensor,
        loss: Tensor | None,
    ) -> None:
        """Add some tokens.

        Args:
            scores: ``[L, b]``, float32.
            picked: ``[L, b]``, bool: those with the highest scores, or that chance took.
            passes: ``[L, b]``, bool: those that the rule lets in.
            lowest: the last chosen score of every part.
            loss: of the rule, over the tokens; None without one.
        """
        with torch.no_grad():
            known = scores.detach()
            one = known.new_ones(())
            figures = torch.stack(
                (
                    one * known.numel(),
                    known.sum(),
                    known.square().sum(),
                    picked.sum(),
                    passes.sum(),
                    (picked == passes).sum(),
                    lowest.sum(),
                    one * lowest.numel(),
                    one * 0 if loss is None else loss.detach(),
                    one * (loss is not None),
                )
            )
            # Of many tokens: a count in float32 is exact up to 2^24.
            figures = figures.double()
            self._sums = figures if self._sums is None else self._sums + figures

    def take(self, device: Any) -> Tensor:
        """The sums ``[len(NAMES)]``, float64, which begin anew; zeros where nothing was added."""
        found, self._sums = self._sums, None
        return (
            torch.zeros(len(NAMES), dtype=torch.float64, device=device) if found is None else found
        )
