"""Megatron's models with superposition in them.

The one idea: a superposed model *is* the stock model, with the same modules, parameters, random
numbers and checkpoint. Two methods differ, the embedding's look-up and the loss, and both look at
nothing but the rank of the tensor they are given: ``[b, L]`` are tokens, ``[b, L, s]`` are bags.
What the heads of multi-token prediction need beside them is in `multi_token_prediction`.
"""

from functools import partial
from typing import Any, cast

import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.models.hybrid.hybrid_model import HybridModel
from torch import Tensor

from tst_megatron.methods.superposition.bags import EMPTY, bag_weights
from tst_megatron.methods.superposition.embedding import SuperposedVocabParallelEmbedding
from tst_megatron.methods.superposition.logit_passes import Implementation
from tst_megatron.methods.superposition.loss import multi_hot_cross_entropy
from tst_megatron.methods.superposition.multi_token_prediction import let_heads_predict_bags
from tst_megatron.methods.superposition.output_layer import (
    LogitsInChunks,
    put_logits_in_chunks,
    scored_logits,
)
from tst_megatron.methods.superposition.settings import BagObjective


class SuperpositionMixin:
    """Bags for a Megatron language model; put before the model class in the bases.

    Args:
        bag_objective: how a target bag is scored.
        has_empty_places: whether input bags may have `EMPTY` places, as those that end with their
            document do. Target bags always may.
        loss_implementation: of the loss of bags, as in `multi_hot_cross_entropy`.
        logits_chunk_size: rows of logits that are there at once, of single targets too; 0 for all
            of them. The other arguments are the model's own.
    """

    bag_objective: BagObjective
    loss_implementation: Implementation | None
    _weights_on_device: dict[tuple[int, torch.device], Tensor]

    def __init__(
        self,
        *args: Any,
        bag_objective: BagObjective = BagObjective(),
        has_empty_places: bool = False,
        loss_implementation: Implementation | None = None,
        logits_chunk_size: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        _read_bags(self, bag_objective, has_empty_places, loss_implementation, logits_chunk_size)

    def forward(
        self,
        input_ids: Tensor | None,
        position_ids: Tensor | None,
        attention_mask: Tensor | None,
        decoder_input: Tensor | None = None,
        labels: Tensor | None = None,
        *args: Any,
        loss_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """The model's own; without a mask, every position whose target bag holds a token counts.

        Only the heads of multi-token prediction use the mask in here, and the one that Megatron
        makes for them has the shape of the labels.

        Args:
            input_ids: ``[b, L]`` or ``[b, L, s]``, int64.
            labels: ``[b, L]`` or ``[b, L, s]``, int64; without them the result is the logits.
            loss_mask: ``[b, L]``.

        Returns:
            ``[b, L]``, float32, or the logits ``[b, L, V/tp]``; hidden states before the last
            pipeline stage.
        """
        # As Megatron, which takes the heads' labels from the inputs where there are none.
        targets = input_ids if labels is None else labels
        if loss_mask is None and targets is not None and targets.dim() == 3:
            loss_mask = (targets != EMPTY).any(dim=-1).float()
        with scored_logits(self, labels is not None):
            output = super().forward(  # type: ignore[misc]  # the model class's
                input_ids,
                position_ids,
                attention_mask,
                decoder_input,
                labels,
                *args,
                loss_mask=loss_mask,
                **kwargs,
            )
        return cast(Tensor, output)

    def compute_language_model_loss(
        self, labels: Tensor, logits: Tensor | LogitsInChunks
    ) -> Tensor:
        """Loss of every position; stock for single targets, multi-hot cross-entropy for bags.

        With ``--cross-entropy-loss-fusion`` that of bags has one collective for both sums, as
        Megatron's own.
        Of logits in chunks the loss of single targets is ours too, that of bags of one.

        Args:
            labels: ``[b, L]``, or ``[b, L, s]`` where `EMPTY` places carry no weight. A bag of one
                is a label of the stock loss: an empty one is token 0, as ``GPTDataset`` has it,
                for the loss mask to take out.
            logits: ``[L, b, V/tp]``; their memory is the gradient's, as in the stock loss. Or in
                chunks.

        Returns:
            ``[b, L]``, float32.

        Raises:
            RuntimeError: the implementation that is named cannot run here.
        """
        if labels.dim() == 3 and labels.shape[-1] == 1:
            labels = labels.squeeze(-1).clamp(min=0)
        in_chunks = isinstance(logits, LogitsInChunks)
        if labels.dim() == 2 and not in_chunks:
            return super().compute_language_model_loss(labels, logits)  # type: ignore[misc]  # the model class's
        objective, weights = "mce", None
        if labels.dim() == 3:
            objective = self.bag_objective.objective
            if objective == "mce":
                weights = self._weights_of(labels.shape[-1], labels.device)
        loss_of = logits.loss if in_chunks else partial(multi_hot_cross_entropy, logits)
        loss = loss_of(
            labels.transpose(0, 1).contiguous(),
            weights=weights,
            tp_group=self.pg_collection.tp,  # type: ignore[attr-defined]  # the model class's
            objective=objective,
            implementation=self.loss_implementation,
            fused_all_reduce=self.config.cross_entropy_loss_fusion,  # type: ignore[attr-defined]  # the model class's
        )
        return loss.transpose(0, 1).contiguous()

    def _weights_of(self, bag_size: int, device: torch.device) -> Tensor:
        """``[s]``, float32, copied to the device once: a copy a step would stall a GPU's queue."""
        key = (bag_size, device)
        if key not in self._weights_on_device:
            self._weights_on_device[key] = bag_weights(self.bag_objective.weights, bag_size).to(
                device
            )
        return self._weights_on_device[key]


class SuperposedGPTModel(SuperpositionMixin, GPTModel):
    """``GPTModel`` that reads and predicts bags."""


class SuperposedHybridModel(SuperpositionMixin, HybridModel):
    """``HybridModel`` that reads and predicts bags."""


def superpose(
    model: GPTModel | HybridModel,
    bag_objective: BagObjective = BagObjective(),
    has_empty_places: bool = False,
    loss_implementation: Implementation | None = None,
    logits_chunk_size: int = 0,
) -> "SuperposedGPTModel | SuperposedHybridModel":
    """Turn a stock model into its superposed class, in place; arguments as `SuperpositionMixin`'s.

    Megatron's builders name the model class they construct, so the class is changed afterwards:
    parameters, initialisation and everything a builder decides stay exactly Megatron's.

    Raises:
        TypeError: the model is neither exactly a ``GPTModel`` nor a ``HybridModel``, or its logits
            cannot be left in chunks.
        ValueError: likewise.
    """
    superposed_class = {GPTModel: SuperposedGPTModel, HybridModel: SuperposedHybridModel}.get(
        type(model)
    )
    if superposed_class is None:
        raise TypeError(f"{type(model).__name__} cannot be superposed: it is not a stock model")
    model.__class__ = superposed_class
    _read_bags(model, bag_objective, has_empty_places, loss_implementation, logits_chunk_size)
    return model


def _read_bags(
    model: Any,
    bag_objective: BagObjective,
    has_empty_places: bool,
    loss_implementation: Implementation | None,
    logits_chunk_size: int,
) -> None:
    model.bag_objective = bag_objective
    model.loss_implementation = loss_implementation
    model._weights_on_device = {}
    # A pipeline stage without an embedding has none to change.
    if hasattr(model, "embedding"):
        # Not a new module: the parameters are made, and random numbers drawn, once.
        model.embedding.word_embeddings.__class__ = SuperposedVocabParallelEmbedding
        model.embedding.word_embeddings.has_empty_places = has_empty_places
    if model.config.mtp_num_layers:
        let_heads_predict_bags()
    if logits_chunk_size:
        put_logits_in_chunks(model, logits_chunk_size)
