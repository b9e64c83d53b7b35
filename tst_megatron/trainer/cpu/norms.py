"""Norms whose weight is kept as its distance from 1: ``--apply-layernorm-1p``.

Megatron has them from Transformer Engine and Apex alone, which need a GPU; parameters have the same
names, shapes and values as theirs, so that checkpoints go both ways.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


class ZeroCenteredLayerNorm(torch.nn.LayerNorm):
    """``(x - mean) / std * (1 + weight) + bias``, in float32 and rounded once, as on a GPU."""

    def reset_parameters(self) -> None:
        """Begin as the identity."""
        torch.nn.init.zeros_(self.weight)
        torch.nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Norm of ``[..., h]``: the same shape and dtype."""
        weight, bias = 1 + self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class ZeroCenteredRMSNorm(torch.nn.RMSNorm):
    """``x / rms * (1 + weight)``, in float32 and rounded once, as on a GPU."""

    def reset_parameters(self) -> None:
        """Begin as the identity."""
        torch.nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Norm of ``[..., h]``: the same shape and dtype."""
        weight = 1 + self.weight.float()
        return F.rms_norm(x.float(), self.normalized_shape, weight, self.eps).to(x.dtype)


ZERO_CENTERED: dict[type, type] = {
    torch.nn.LayerNorm: ZeroCenteredLayerNorm,
    torch.nn.RMSNorm: ZeroCenteredRMSNorm,
}
"""Torch's norm → the one beside it here."""
