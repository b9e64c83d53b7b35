"""What routers do as a run trains: in the log line's extras, TensorBoard and the ledger; and the
threshold, which is moved after a step.

The one idea: every rank has its own blocks and its own tokens; a table with a row a block, added up
over all ranks, has them all, and every rank can read it.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tst_megatron.methods.depths.block import Now
from tst_megatron.methods.depths.model import routed_blocks
from tst_megatron.methods.depths.settings import LEAST, Routing
from tst_megatron.methods.depths.tally import NAMES
from tst_megatron.methods.events import Evaluated, Listener, LoggedStep, Progress, Scalar
from tst_megatron.runs.stages import Stage


class DepthListener(Listener):
    """Of a run's routed blocks.

    Args:
        routing: of the run.
        now: of the run.
    """

    def __init__(self, routing: Routing, now: Now) -> None:
        self._routing = routing
        self._now = now
        self._blocks: list[Any] = []
        self._device: Any = None
        self._sums: Tensor | None = None

    def started(self, model: list[Any]) -> None:
        """Find this rank's."""
        self._blocks = routed_blocks(model)
        self._device = next(model[0].parameters()).device

    def stepping(self, stage: Stage, optimizer: Any) -> None:
        """Of the stage."""
        self._now.most = float(stage.facts.get(LEAST) or 0.0)
        self._now.ranks_in_validation = False

    def stepped(self, progress: Progress, scalar: Scalar) -> None:
        """Move thresholds by the step's scores."""
        if self._routing.sampling != "threshold":
            return
        table = self._table()
        self._sums = table if self._sums is None else self._sums + table
        for block in self._blocks:
            row = dict(zip(NAMES, table[self._row(block)], strict=True))
            block.depth_router.average_in((row["lowest"] / row["parts"].clamp(min=1)).float())

    def step_logged(self, step: LoggedStep) -> None:
        """Add the figures since the last logged step."""
        table = self._sums if self._routing.sampling == "threshold" else self._table()
        self._sums = None
        if table is not None:
            figures = self._figures(table)
            step.extras.update(figures)
            for name, value in figures.items():
                step.scalar(name.replace("_block_", "/block "), value)

    def evaluating(self) -> None:
        """Begin anew: what was asked in between is not of the validation."""
        self._table("read")

    def evaluated(self, evaluated: Evaluated) -> None:
        """Add how often rule and rank agree, in all blocks together."""
        self._now.ranks_in_validation = False
        total = dict(zip(NAMES, self._table("read").sum(dim=0).tolist(), strict=True))
        if total["tokens"]:
            for name in ("agreeing", "passing"):
                evaluated.facts[f"mod_{name}"] = total[name] / total["tokens"]

    def _row(self, block: Any) -> int:
        return list(self._routing.blocks).index(block.layer_number)

    def _table(self, which: str = "trained") -> Tensor:
        """``[blocks, len(NAMES)]``, over all ranks, of what was added since the last one."""
        table = torch.zeros(
            len(self._routing.blocks), len(NAMES), dtype=torch.float64, device=self._device
        )
        for block in self._blocks:
            table[self._row(block)] += getattr(block.depths, which).take(self._device)
        dist.all_reduce(table)
        return table

    def _figures(self, table: Tensor) -> dict[str, float]:
        found: dict[str, float] = {}
        for block, row in zip(self._routing.blocks, table.tolist(), strict=True):
            sums = dict(zip(NAMES, row, strict=True))
            tokens = sums["tokens"]
            if not tokens:
                continue
            mean = sums["score"] / tokens
            spread = max(0.0, sums["score_squared"] / tokens - mean**2) ** 0.5
            figures = {
                "score": mean,
                "score_spread": spread,
                "agreeing": sums["agreeing"] / tokens,
                "passing": sums["passing"] / tokens,
            }
            if sums["losses"]:
                figures["loss"] = sums["loss"] / sums["losses"]
            found |= {f"mod_{name}_block_{block}": value for name, value in figures.items()}
        return found
