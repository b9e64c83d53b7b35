"""The numbers of experts: what is cut from an MLP's matrices, drawn anew, or made for a router.

The one idea: each is worked out whole, on the CPU, from the matrices of the checkpoint and from
numbers that the seed, the layer and a name decide; so every layout and the offline command get the
same bytes.
"""

import hashlib

import torch

from tst_megatron.checkpoints.keyed_noise import noise
from tst_megatron.methods.upcycling.experts import Experts, Upcycling

_UP, _DOWN = "linear_fc1", "linear_fc2"


class Values:
    """Of the experts of one model.

    Args:
        experts: what they are made of.
        how: as flags say it.
        seed: of what is drawn.
    """

    def __init__(self, experts: Experts, how: Upcycling, seed: int) -> None:
        self._experts = experts
        self._how = how
        self._seed = seed

    @property
    def are_alike(self) -> bool:
        """Whether experts of one shard are copies of each other."""
        return not (self._how.drop or self._how.noise)

    def of_expert(
        self, whole: torch.Tensor, part: str, kind: str, layer: int, expert: int
    ) -> torch.Tensor:
        """A parameter of an expert.

        Args:
            whole: the dense MLP's, ``[2f, h]`` with a gate or ``[f, h]``, ``[h, f]``, or a bias of
                one of these widths; of the expert that is copied where experts become more.
            part: ``linear_fc1`` or ``linear_fc2``.
            kind: ``weight`` or ``bias``.
            layer: of the model.
            expert: its number.

        Returns:
            In float32, unless nothing is worked out.
        """
        experts = self._experts
        if not experts.copied_from:
            whole = self._shards(whole, part, kind, experts.shard(expert), 1)
            whole = self._scaled(whole, part, kind)
        if self.are_alike:
            return whole
        name = f"mlp.experts.experts.{part}.{kind}.expert{expert}"
        changed = whole.float()
        if kind == "weight" and self._how.noise:
            deviation = changed.double().std(correction=0).item()
            drawn = noise(self._seed, layer, name, tuple(changed.shape))
            changed = changed + self._how.noise * deviation * drawn
        units = self.dropped(layer, expert)
        if len(units) and not (part == _DOWN and kind == "bias"):
            changed = changed.clone()
            for view in self._of_units(changed, part):
                drawn = noise(self._seed, layer, f"{name}.dropped", tuple(view.shape))
                old = view[units].double()
                mean, deviation = old.mean().item(), old.std(correction=0).item()
                view[units] = (mean + deviation * drawn[units]).float()
                name = f"{name}.up"
        return changed

    def of_shared(self, whole: torch.Tensor, part: str, kind: str) -> torch.Tensor:
        """A parameter of the shared experts, which hold the first shards as they are."""
        return self._shards(whole, part, kind, 0, self._experts.shared)

    def moment(
        self, whole: torch.Tensor, part: str, kind: str, layer: int, expert: int, power: int
    ) -> torch.Tensor:
        """A moment of an expert's parameter.

        A weight that is multiplied by c has a gradient of 1/c, so that the k-th moment is divided
        by c to the k; units that are drawn anew have none.

        Args:
            whole: the dense MLP's, as for `of_expert`.
            part: likewise.
            kind: likewise.
            layer: likewise.
            expert: likewise.
            power: k.
        """
        experts = self._experts
        if not experts.copied_from:
            whole = self._shards(whole, part, kind, experts.shard(expert), 1)
            whole = self._scaled(whole, part, kind, -power)
        units = self.dropped(layer, expert)
        if len(units) and not (part == _DOWN and kind == "bias"):
            whole = whole.clone()
            for view in self._of_units(whole, part):
                view[units] = 0
        return whole

    def dropped(self, layer: int, expert: int) -> torch.Tensor:
        """Units of an expert that are drawn anew: one set for all its matrices."""
        count = round(self._how.drop * self._experts.size)
        if not count:
            return torch.empty(0, dtype=torch.int64)
        digest = hashlib.sha256(f"{self._seed} {layer} dropped.expert{expert}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
        return torch.randperm(self._experts.size, generator=generator)[:count]

    def router(self, layer: int, shape: tuple[int, ...]) -> torch.Tensor:
        """A new router's weights ``[experts, h]``, float32: a group of experts has one row."""
        experts = self._experts
        rows = experts.total // experts.shards
        drawn = noise(self._seed, layer, "mlp.router.weight", (rows, *shape[1:]))
        return (experts.router_std * drawn)[self._rows()]

    def more_rows(self, layer: int, rows: torch.Tensor, has_noise: bool) -> torch.Tensor:
        """Rows ``[experts, ...]`` of a router whose experts become more.

        Args:
            layer: of the model.
            rows: of the experts that there were.
            has_noise: whether those of copies are to differ, so that they do not tie.
        """
        found = rows[self._rows()]
        if not has_noise or not self._experts.router_std:
            return found
        times = self._experts.total // self._experts.copied_from
        drawn = noise(self._seed, layer, "mlp.router.weight", tuple(found.shape))
        drawn[::times] = 0
        return (found.float() + self._experts.router_std * drawn).to(found.dtype)

    def _rows(self) -> list[int]:
        return [self._experts.row(expert) for expert in range(self._experts.total)]

    def _shards(
        self, whole: torch.Tensor, part: str, kind: str, first: int, count: int
    ) -> torch.Tensor:
        """Some of the shards of a dense MLP's parameter."""
        if part == _DOWN and kind == "bias":
            return whole
        size = self._experts.size
        units = slice(first * size, (first + count) * size)
        if part == _DOWN:
            return whole[:, units]
        if not self._experts.is_gated:
            return whole[units]
        gate, up = whole.chunk(2)
        return torch.cat([gate[units], up[units]])

    def _scaled(self, own: torch.Tensor, part: str, kind: str, power: int = 1) -> torch.Tensor:
        """An expert's parameter, multiplied by its factor to a power."""
        experts = self._experts
        factor = experts.up if part == _UP else experts.down
        if part == _DOWN and kind == "bias":
            factor = experts.down_bias
        if factor == 1:
            return own
        if part == _UP and experts.is_gated:
            gate, up = own.chunk(2)
            return torch.cat([gate.float(), up.float() * factor**power])
        return own.float() * factor**power

    def _of_units(self, own: torch.Tensor, part: str) -> list[torch.Tensor]:
        """Views of an expert's parameter whose first axis counts its units; gate and up apart."""
        if part == _DOWN:
            return [own.T]
        return list(own.chunk(2)) if self._experts.is_gated else [own]
