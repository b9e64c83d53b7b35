"""What a routed block scores tokens with, and the rule that lets one in without those after it.

The one idea: a router is parameters and a rule; it knows nothing of blocks, ranks or sequences. It
draws its first numbers by itself, so that the model's own are those of a run without it, and are
the same in every layout.
"""

from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tst_megatron.methods.depths.sizes import units_of

# What is drawn for a block does not depend on how many there are before it.
_SEEDS_A_RUN = 100_003


@dataclass(frozen=True)
class Rule:
    """How tokens are chosen.

    Attributes:
        sampling: ``predictor``, ``auxiliary`` or ``threshold``: without a look at later tokens.
        choice: ``router`` or ``random``.
        coefficient: of the loss that trains the rule.
        decay: of the average that a threshold is.
    """

    sampling: str = "predictor"
    choice: str = "router"
    coefficient: float = 0.01
    decay: float = 0.99

    @property
    def has_predictor(self) -> bool:
        """Whether a router has parameters beside the score's."""
        return self.sampling == "predictor" and self.choice == "router"

    @property
    def steps_by_rank(self) -> int:
        """Steps that take the highest scores before a threshold is one."""
        return round(1 / (1 - self.decay))


class _Scores(torch.autograd.Function):
    """``hidden · weight`` in float32, which keeps ``hidden`` for the gradient as it is: a copy in
    float32 would take twice the memory that a chosen few tokens save. Beside the scores it gives
    ``hidden`` again: the gradient of what else is made of that is added to as it comes by."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """``[..., h]`` and ``[h]`` give ``[...]`` and ``[..., h]``."""
        ctx.save_for_backward(hidden, weight)
        ctx.set_materialize_grads(False)
        exact = torch.promote_types(hidden.dtype, torch.float32)
        return torch.matmul(hidden.to(exact), weight.to(exact)), hidden

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, passed: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Likewise in float32, each of the type of what it is the gradient of."""
        if grad is None:
            return passed, None
        hidden, weight = ctx.saved_tensors
        of_hidden = None
        if ctx.needs_input_grad[0]:
            exact = grad.unsqueeze(-1), weight.to(grad.dtype)
            product = exact[0] * exact[1] if passed is None else torch.addcmul(passed, *exact)
            of_hidden = product.to(hidden.dtype)
        rows = hidden.reshape(-1, hidden.shape[-1]).to(grad.dtype)
        return of_hidden, torch.mv(rows.t(), grad.reshape(-1)).to(weight.dtype)


class DepthRouter(nn.Module):
    """A score of every token, and a rule.

    Args:
        hidden_size: h.
        rule: how tokens are chosen.
        std: of the first weights.
        seed: of the run.
        block: number of the block.
        like: a parameter of the block, for device and type.

    Attributes:
        weight: ``[h]``: one dimension, so that weight decay leaves it alone as it does norms.
        threshold: 0-dimensional, float32: what a score has to reach.
        steps: int64, 0-dimensional: that it is an average of.
    """

    threshold: Tensor
    steps: Tensor

    def __init__(
        self, hidden_size: int, rule: Rule, std: float, seed: int, block: int, like: Tensor
    ) -> None:
        super().__init__()
        self.rule = rule
        drawn = {
            name: nn.Parameter(numbers.to(like.device, like.dtype))
            for name, numbers in first_numbers(
                hidden_size, rule.has_predictor, std, seed, block
            ).items()
        }
        self.weight = drawn["weight"]
        self.down, self.up = drawn.get("down"), drawn.get("up")
        self.register_buffer("threshold", torch.zeros((), device=like.device))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64, device=like.device))

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """torch's, for moves and types; a threshold stays as exact as it is, which Megatron's
        16-bit wrapper would not leave it."""
        exact = self.threshold
        super()._apply(fn, recurse)
        self.threshold = exact.to(self.threshold.device)
        return self

    def scores(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Scores ``[...]`` of tokens ``[..., h]``, float32 (arXiv 2404.02258, equation 1), and the
        tokens, for what else is made of them."""
        found: tuple[Tensor, Tensor] = _Scores.apply(hidden, self.weight)
        return found

    def logits(self, hidden: Tensor, scores: Tensor) -> Tensor:
        """What the rule's loss trains, ``[...]``, float32: a token is let in above 0.

        Args:
            hidden: ``[..., h]``; no gradient goes back into it from a predictor.
            scores: of `scores`.
        """
        if self.down is None or self.up is None:
            return scores
        units = F.silu(F.linear(hidden.detach().to(self.down.dtype), self.down))
        found: Tensor = _Scores.apply(units, self.up)[0]
        return found

    def passes(self, logits: Tensor, scores: Tensor) -> Tensor:
        """Which tokens the rule lets in, ``[...]``, bool, each by itself.

        Args:
            logits: of `logits`, ``[...]``, float32.
            scores: of `scores`, ``[...]``, float32.
        """
        if self.rule.sampling == "threshold":
            return scores.detach() >= self._threshold()
        return logits.detach() > 0

    @property
    def has_threshold(self) -> bool:
        """Whether tokens are let in by a threshold in training too, by now."""
        return self.rule.sampling == "threshold" and int(self.steps) >= self.rule.steps_by_rank

    def _threshold(self) -> Tensor:
        # A plain average at first, as there is nothing before.
        weight = 1 - self.rule.decay ** self.steps.clamp(min=1)
        return self.threshold / weight

    def average_in(self, score: Tensor) -> None:
        """Take the last chosen score of a step into the threshold.

        Args:
            score: 0-dimensional, the mean over the step's sequences; the same on all ranks.
        """
        self.threshold.mul_(self.rule.decay).add_((1 - self.rule.decay) * score)
        self.steps.add_(1)


def first_numbers(
    hidden_size: int, has_predictor: bool, std: float, seed: int, block: int
) -> dict[str, Tensor]:
    """The first parameters of a router, by their names in it, float32, on the CPU.

    Args:
        hidden_size: h.
        has_predictor: whether a predictor's are among them.
        std: of them.
        seed: of the run.
        block: number of the block.
    """
    draw = torch.Generator().manual_seed(seed * _SEEDS_A_RUN + block)
    shapes: dict[str, tuple[int, ...]] = {"weight": (hidden_size,)}
    if has_predictor:
        units = units_of(hidden_size)
        shapes |= {"down": (units, hidden_size), "up": (units,)}
    return {name: torch.randn(shape, generator=draw) * std for name, shape in shapes.items()}


def mark(router: DepthRouter, config: Any) -> None:
    """Tell Megatron that the gradients of a rank are of its own tokens, under sequence
    parallelism; it adds them up."""
    for parameter in router.parameters():
        parameter.sequence_parallel = config.sequence_parallel
