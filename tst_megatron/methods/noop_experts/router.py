"""A router of Megatron's that chooses among experts and experts that do nothing.

The one idea: the router *is* Megatron's, of a layer with E + N experts: scores, choice, balancing
losses and biases are over all of them, however its flags have it. What it gives to the dispatcher
is cut to the E that there are. The probability of a choice stays what it was among all that were
chosen: what fell on a no-op is not shared out among the others, so that one expert of two adds as
little as its probability says.
"""

import copy
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from megatron.core.transformer.moe.router import TopKRouter
from torch import Tensor

# What is drawn for a layer depends on no other, and is not what its router of depths draws.
_SEEDS_A_RUN, _FIRST = 100_003, 50_000


class Choices:
    """Choices since the last `take`, counted on the device, without a wait for it."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    def add(self, chosen: Tensor, experts: int) -> None:
        """Add those of some tokens.

        Args:
            chosen: ``[tokens, E + N]``, bool.
            experts: E.
        """
        counts = chosen.sum(dim=0)
        sums = torch.stack((counts.sum(), counts[experts:].sum())).double()
        self._sums = sums if self._sums is None else self._sums + sums

    def take(self, device: Any) -> Tensor:
        """All of them and those of no-ops ``[2]``, float64, which begin anew."""
        found, self._sums = self._sums, None
        return torch.zeros(2, dtype=torch.float64, device=device) if found is None else found


@dataclass
class Noops:
    """What such a router has beside Megatron's.

    Attributes:
        experts: E, that there are.
        layer: its number from 1; those of multi-token prediction come after the model's.
        trained: choices of tokens that it is trained on.
        read: those of tokens that it only reads.
    """

    experts: int
    layer: int
    trained: Choices = field(default_factory=Choices)
    read: Choices = field(default_factory=Choices)


class NoopRouter(TopKRouter):
    """Megatron's router, of E experts and N no-op experts."""

    noops: Noops

    def routing(self, logits: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Megatron's, without the choices that add nothing.

        Args:
            logits: ``[L/cp/tp, b, E + N]``.
            padding_mask: ``[L/cp/tp, b]``, True where there is no token.

        Returns:
            Probabilities and choices ``[tokens, E]``, of k or fewer experts a token.
        """
        probs, chosen = super().routing(logits, padding_mask=padding_mask)
        experts = self.noops.experts
        # In training once, where activations are computed again.
        if torch.is_grad_enabled() or not self.training:
            with torch.no_grad():
                self._count(chosen, padding_mask)
        return probs[:, :experts].contiguous(), chosen[:, :experts].contiguous()

    def _count(self, chosen: Tensor, padding_mask: Tensor | None) -> None:
        if padding_mask is not None:
            chosen = chosen & ~padding_mask.reshape(-1, 1)
        is_trained = self.training
        choices = self.noops.trained if is_trained else self.noops.read
        choices.add(chosen, self.noops.experts)


def add_noops(router: TopKRouter, number: int, seed: int) -> None:
    """Let a router choose among so many no-op experts besides, in place.

    They come last, with rows that are drawn by themselves: the others are those of a run without
    them, and the same in every layout.

    Args:
        router: as Megatron has just built it.
        number: N.
        seed: of the run.
    """
    config = copy.copy(router.config)
    experts = int(config.num_moe_experts)
    layer = int(router.layer_number) + (config.num_layers if router.is_mtp_layer else 0)
    draw = torch.Generator().manual_seed(seed * _SEEDS_A_RUN + _FIRST + layer)
    for parameter in router.parameters(recurse=False):
        rows = torch.randn((number, *parameter.shape[1:]), generator=draw)
        # In place of another parameter, which would lose what Megatron has marked on this one.
        parameter.data = torch.cat((parameter.data, (rows * config.init_method_std).to(parameter)))
    for name, counts in list(router.named_buffers(recurse=False)):
        if counts.dim():  # One for each expert: biases, and tokens that it was given.
            setattr(router, name, torch.cat((counts, counts.new_zeros(number))))
    config.num_moe_experts = router.num_experts = experts + number
    router.config = config
    router.__class__ = NoopRouter
    cast(NoopRouter, router).noops = Noops(experts, layer)
