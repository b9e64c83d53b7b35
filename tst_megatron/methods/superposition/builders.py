"""Model configurations that make Megatron's trainer build the superposed classes.

Megatron finds the builder through the configuration's ``builder`` path
(megatron/training/models/base.py), so naming ours is the whole seam.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from megatron.core.models.gpt import GPTModel
from megatron.core.models.hybrid.hybrid_model import HybridModel
from megatron.training.models.gpt import GPTModelBuilder, GPTModelConfig
from megatron.training.models.hybrid import HybridModelBuilder, HybridModelConfig

from tst_megatron.methods.superposition.model import BagObjective, superpose


@dataclass(kw_only=True)
class SuperposedGPTModelConfig(GPTModelConfig):
    """``GPTModelConfig`` of a `SuperposedGPTModel`."""

    builder: ClassVar[str] = f"{__name__}.SuperposedGPTModelBuilder"
    bag_objective: BagObjective = field(default_factory=BagObjective)
    has_empty_places: bool = False


@dataclass(kw_only=True)
class SuperposedHybridModelConfig(HybridModelConfig):
    """``HybridModelConfig`` of a `SuperposedHybridModel`."""

    builder: ClassVar[str] = f"{__name__}.SuperposedHybridModelBuilder"
    bag_objective: BagObjective = field(default_factory=BagObjective)
    has_empty_places: bool = False


class SuperposedGPTModelBuilder(GPTModelBuilder):
    """Builds exactly what ``GPTModelBuilder`` builds, then lets it read bags."""

    _model_config: SuperposedGPTModelConfig

    def build_model(self, *args: Any, **kwargs: Any) -> GPTModel:
        """One pipeline stage; the arguments are the parent's."""
        config = self._model_config
        model = super().build_model(*args, **kwargs)
        return superpose(model, config.bag_objective, config.has_empty_places)


class SuperposedHybridModelBuilder(HybridModelBuilder):
    """Builds exactly what ``HybridModelBuilder`` builds, then lets it read bags."""

    _model_config: SuperposedHybridModelConfig

    def build_model(self, *args: Any, **kwargs: Any) -> HybridModel:
        """One pipeline stage; the arguments are the parent's."""
        config = self._model_config
        model = super().build_model(*args, **kwargs)
        return superpose(model, config.bag_objective, config.has_empty_places)
