"""An output layer that leaves its product to the loss, so that the logits are never whole.

The one idea: what an output layer returned, Megatron's models give to the loss alone, and heads of
multi-token prediction to the loss and to their count of right predictions; both are ours
(``compute_language_model_loss``, `multi_token_prediction`). So the layer returns what the logits
would be made of, and the loss makes them block by block. ``GPTModel`` has a seam behind the layer
(``output_processor``), ``HybridModel`` and the heads have none; and past the module's own call its
pre-forward hooks would not run, by which Megatron waits for parameters that are being gathered.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.tensor_parallel.layers import ColumnParallelLinear
from torch import Tensor

from tst_megatron.methods.superposition.chunked_logits import (
    chunked_multi_hot_cross_entropy,
    slices,
    whole_rows,
)


@dataclass(frozen=True)
class LogitsInChunks:
    """The logits of a micro-batch, as what they are made of.

    Attributes:
        hidden: ``[L, b, h]``, or ``[L/tp, b, h]`` under sequence parallelism.
        weight: ``[V/tp, h]``.
        layer: that was given the hidden states.
    """

    hidden: Tensor
    weight: Tensor
    layer: "ChunkedOutputLayer"

    def loss(self, targets: Tensor, **how: Any) -> Tensor:
        """As `chunked_multi_hot_cross_entropy`, with what the layer knows: ``[L, b]``, float32."""
        return chunked_multi_hot_cross_entropy(
            self.hidden,
            self.weight,
            targets,
            **how,
            chunk_size=self.layer.chunk_size,
            sequence_parallel=self.layer.sequence_parallel,
            gradient_accumulation_fusion=self.layer.gradient_accumulation_fusion,
        )

    def by_blocks[T](self, function: Callable[[slice, Tensor], T]) -> list[T]:
        """What a function makes of every block: which of all L·b positions, and their logits.

        Args:
            function: given the logits as ``[chunk_size, V/tp]``, of which it keeps nothing.
        """
        with torch.no_grad():
            rows = whole_rows(self.hidden, self.layer.tp_group, self.layer.sequence_parallel)
            return [
                function(here, rows[here] @ self.weight.t())
                for here in slices(rows.shape[0], self.layer.chunk_size)
            ]


class ChunkedOutputLayer(ColumnParallelLinear):
    """``ColumnParallelLinear`` whose result a loss asks for block by block.

    Parameters, initialisation and state dict are the parent's.

    Attributes:
        chunk_size: rows of logits that are there at once.
        is_scored: whether its result goes to the loss (`scored_logits`); else it is the parent's.
    """

    chunk_size: int
    is_scored = False

    def forward(
        self,
        input_: Tensor,
        weight: Tensor | None = None,
        runtime_gather_output: bool | None = None,
    ) -> tuple[Any, Tensor | None]:
        """The parent's, or `LogitsInChunks` in place of the logits.

        Args:
            input_: ``[L, b, h]``, or ``[L/tp, b, h]`` under sequence parallelism.
            weight: ``[V/tp, h]``, where the table is tied to the embedding's.
            runtime_gather_output: as in Megatron; no loss takes gathered logits.
        """
        if not self.is_scored:
            return super().forward(input_, weight, runtime_gather_output)
        return LogitsInChunks(input_, self.weight if weight is None else weight, self), None


@contextmanager
def scored_logits(model: Any, are_scored: bool) -> Iterator[None]:
    """For a forward pass: whether what a model's output layer returns goes to the loss."""
    layer = getattr(model, "output_layer", None)
    if not isinstance(layer, ChunkedOutputLayer):
        yield
        return
    layer.is_scored = are_scored
    try:
        yield
    finally:
        layer.is_scored = False


def put_logits_in_chunks(model: Any, chunk_size: int) -> None:
    """Let a model's output layer, if this pipeline stage has one, leave its product to the loss.

    Raises:
        ValueError: the model does more with its logits than score them.
        TypeError: the output layer is not Megatron's own.
    """
    if model.config.use_mup or model.config.defer_embedding_wgrad_compute:
        raise ValueError(
            "logits cannot be left in chunks where MuP scales them or the output layer's weight "
            "gradient is deferred: use a chunk size of 0"
        )
    if not hasattr(model, "output_layer"):
        return
    if type(model.output_layer) is not ColumnParallelLinear:
        raise TypeError(
            f"logits of {type(model.output_layer).__name__} cannot be left in chunks: it is not "
            "ColumnParallelLinear"
        )
    # As the embedding's: the parameters are made, and random numbers drawn, once.
    model.output_layer.__class__ = ChunkedOutputLayer
    model.output_layer.chunk_size = chunk_size
