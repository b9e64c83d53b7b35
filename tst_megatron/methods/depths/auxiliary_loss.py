"""A loss beside the main one, scaled as the main one is.

The one idea: Megatron scales auxiliary losses of models with experts alone (schedules.py, after
``forward_step_calc_loss``), by a number that is a global of its own; so this one asks for the same
number when the backward pass comes to it.
"""

from typing import Any

import torch
from megatron.core.num_microbatches_calculator import get_num_microbatches
from torch import Tensor


class WithLoss(torch.autograd.Function):
    """Gives a tensor as it is and adds the gradient of a loss to what comes back."""

    @staticmethod
    def forward(ctx: Any, carrier: Tensor, loss: Tensor, config: Any) -> Tensor:
        """The carrier.

        Args:
            ctx: of autograd.
            carrier: any tensor that the main loss depends on.
            loss: a scalar: the mean over this rank's tokens, or their sum where Megatron divides
                by the tokens of all (``calculate_per_token_loss``).
            config: Megatron's, of the layer.
        """
        ctx.save_for_backward(loss)
        ctx.config = config
        return carrier.view_as(carrier)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """Likewise, and the scale of the main loss for the other one."""
        (loss,) = ctx.saved_tensors
        return grad, _scale(ctx.config, loss).view_as(loss), None


def _scale(config: Any, loss: Tensor) -> Tensor:
    """As ``forward_step`` in megatron/core/pipeline_parallel/schedules.py has it."""
    scale = torch.ones((), device=loss.device, dtype=loss.dtype)
    if config.grad_scale_func is not None:
        scale = config.grad_scale_func(scale)
    return scale if config.calculate_per_token_loss else scale / get_num_microbatches()
