"""How often no-op experts are chosen as a run trains: in the log line's extras, TensorBoard and the
ledger, and for its FLOPs.

The one idea: what a step costs is known when it is over. So choices are counted, and not expected:
a router that is balanced badly would else be said to save what it does not.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tst_megatron.methods.events import Evaluated, Listener, LoggedStep
from tst_megatron.methods.noop_experts.model import routers_of


@dataclass
class LastStep:
    """What the last step left out.

    Attributes:
        noops: choices of no-op experts, of all tokens in all layers on all ranks.
    """

    noops: float = 0.0


class NoopListener(Listener):
    """Of a run's routers.

    Args:
        layers: of the model, and of multi-token prediction after it.
        last: where the count of a step is left for its FLOPs.
    """

    def __init__(self, layers: int, last: LastStep) -> None:
        self._layers = layers
        self._last = last
        self._routers: list[Any] = []
        self._device: Any = None
        self._sums = torch.zeros(layers, 2, dtype=torch.float64)

    def started(self, model: list[Any]) -> None:
        """Find this rank's."""
        self._routers = routers_of(model)
        self._device = next(model[0].parameters()).device

    def computed(self) -> None:
        """Count the step's choices."""
        table = self._table("trained")
        self._last.noops = float(table[:, 1].sum())
        self._sums += table

    def step_logged(self, step: LoggedStep) -> None:
        """Add shares since the last logged step, of all layers and of each."""
        sums, self._sums = self._sums, torch.zeros_like(self._sums)
        for layer, (choices, noops) in enumerate(sums.tolist(), 1):
            if choices:
                step.extras[f"noop_share_layer_{layer}"] = noops / choices
                step.scalar(f"noop_share/layer {layer}", noops / choices)
        share = _share(sums)
        if share is not None:
            step.extras["noop_share"] = share
            step.scalar("noop_share", share)

    def evaluating(self) -> None:
        """Begin anew: what was asked in between is not of the validation."""
        self._table("read")

    def evaluated(self, evaluated: Evaluated) -> None:
        """Add the share of held-out tokens' choices."""
        share = _share(self._table("read"))
        if share is not None:
            evaluated.facts["noop_share"] = share

    def _table(self, which: str) -> Tensor:
        """``[layers, 2]`` on the host: choices over all ranks since the last one, and no-ops'."""
        table = torch.zeros(self._layers, 2, dtype=torch.float64, device=self._device)
        for router in self._routers:
            table[router.noops.layer - 1] += getattr(router.noops, which).take(self._device)
        dist.all_reduce(table)
        return table.cpu()


def _share(table: Tensor) -> float | None:
    choices, noops = table.sum(dim=0).tolist()
    return noops / choices if choices else None
