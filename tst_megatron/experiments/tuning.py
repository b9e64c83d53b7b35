"""A learning rate chosen by runs at several: what there is to try, and what they say.

The one idea: rates are a factor of two apart, and there are more of them while the best is at an
edge; the lowest point of a parabola in their logarithm is chosen, and stays chosen.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tst_megatron.errors import UserError
from tst_megatron.files import write_whole
from tst_megatron.statistics.log_parabola import lowest

_FIRST_RATES = 4
# Rates beyond the first, one at a time, as long as the best of them is at an edge.
_MOST_RATES = 8


def rates_to_try(highest: float, loss_at: Callable[[float], float | None]) -> list[float]:
    """Four rates, and more where the best of them is at an edge, ascending.

    Args:
        highest: of the four that are tried first, each half the next.
        loss_at: what a rate came to: infinite of one that diverged, None while it is not known.
    """
    rates = [highest / 2**place for place in reversed(range(_FIRST_RATES))]
    while True:
        losses = [loss_at(rate) for rate in rates]
        known = [math.inf if loss is None else loss for loss in losses]
        best = known.index(min(known))
        if None in losses or len(rates) == _MOST_RATES or 0 < best < len(rates) - 1:
            return rates
        rates = [rates[0] / 2, *rates] if best == 0 else [*rates, 2 * rates[-1]]


@dataclass(frozen=True)
class ChosenRates:
    """Rates that are chosen, in a file.

    Attributes:
        file: in JSON, by name; it need not be there yet.
    """

    file: Path

    def rate(self, name: str, tried: Callable[[], Mapping[float, float | None]]) -> float | None:
        """The chosen one, of two digits; None while what chooses it is not known.

        Args:
            name: what the rate is of.
            tried: what rates came to, as `rates_to_try` has it; asked where none is chosen yet.

        Raises:
            UserError: the file is no JSON, or too few rates have a loss.
        """
        chosen: dict[str, float] = {}
        if self.file.exists():
            try:
                chosen = json.loads(self.file.read_text())
            except ValueError:
                raise UserError(
                    f"{self.file} is no JSON: mend it, or delete it to choose the rates anew"
                ) from None
        if name not in chosen:
            losses = tried()
            if None in losses.values():
                return None
            finite = {
                rate: loss
                for rate, loss in losses.items()
                if loss is not None and math.isfinite(loss)
            }
            parabola = lowest(list(finite), list(finite.values()))
            if parabola is None:
                raise UserError(f"too few of the runs that choose a rate for {name} have a loss")
            chosen[name] = float(f"{parabola.optimum:.2g}")
            write_whole(self.file, json.dumps(chosen, indent=2) + "\n")
        return chosen[name]
