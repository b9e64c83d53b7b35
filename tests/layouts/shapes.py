"""The recipes' models as Megatron's flags, and their sizes by arithmetic.

The one idea: a shape is nothing but the flags that its recipe gives for the model; those for the
machines and the run are left to each test. What a test expects of a shape, such as its number of
parameters, is computed from those flags by hand and not by Megatron.
"""

from dataclasses import dataclass, replace

from tst_megatron import recipes

_MODEL = (
    *("num-layers", "hidden-size", "ffn-hidden-size", "num-attention-heads", "kv-channels"),
    *("group-query-attention", "num-query-groups", "qk-layernorm", "seq-length"),
    *("max-position-embeddings", "position-embedding-type", "rotary-base", "padded-vocab-size"),
    *("normalization", "norm-epsilon", "swiglu", "disable-bias-linear"),
    *("untie-embeddings-and-output-weights", "attention-dropout", "hidden-dropout", "bf16"),
    *("num-experts", "moe-router-topk", "moe-ffn-hidden-size", "moe-router-dtype"),
    *("moe-router-load-balancing-type", "moe-aux-loss-coeff", "moe-token-dispatcher-type"),
)


@dataclass(frozen=True)
class Shape:
    """A model as Megatron's flags, and its arithmetic.

    Attributes:
        name: for test ids.
        flags: Megatron's; sizes as ``--name=value``.
        hybrid_layer: one layer in the letters of ``HybridModel``, whose attention and MLP are
            layers of their own; empty for ``GPTModel``.
    """

    name: str
    flags: tuple[str, ...]
    hybrid_layer: str = ""

    def size(self, flag: str, default: int = 0) -> int:
        """The number that a flag gives."""
        values = [given.split("=")[1] for given in self.flags if given.startswith(f"--{flag}=")]
        return int(values[-1]) if values else default

    @property
    def num_parameters(self) -> int:
        """Of the whole model, with every parameter counted once."""
        layers = self._layer(self.size("num-experts", 1)) * self.size("num-layers")
        return 2 * self._vocabulary + layers + self.size("hidden-size")

    @property
    def num_active_parameters(self) -> int:
        """That work on one token: with the LM head, without the input embedding."""
        layers = self._layer(self.size("moe-router-topk", 1)) * self.size("num-layers")
        return self._vocabulary + layers + self.size("hidden-size")

    @property
    def num_parameters_of_prediction_layer(self) -> int:
        """Of one multi-token prediction layer: a layer, three norms, and ``[2h, h]`` before it."""
        hidden = self.size("hidden-size")
        return self._layer(self.size("num-experts", 1)) + 3 * hidden + 2 * hidden * hidden

    @property
    def _vocabulary(self) -> int:
        return self.size("padded-vocab-size") * self.size("hidden-size")

    def _layer(self, num_experts: int) -> int:
        hidden, head = self.size("hidden-size"), self.size("kv-channels")
        queries = self.size("num-attention-heads") * head
        keys = self.size("num-query-groups") * head
        attention = hidden * (queries + 2 * keys) + queries * hidden
        norms = 2 * hidden + (2 * head if "--qk-layernorm" in self.flags else 0)
        router = hidden * self.size("num-experts")
        mlp = 3 * hidden * self.size("moe-ffn-hidden-size", self.size("ffn-hidden-size"))
        return attention + norms + router + num_experts * mlp


def of_recipe(name: str, recipe: str) -> Shape:
    """The model of a recipe, whatever its layout."""
    values = recipes.load(recipe)
    words = (recipes.flags({key: values[key]}) for key in _MODEL if key in values)
    return Shape(name, tuple("=".join(one) for one in words))


DENSE = of_recipe("dense-3b", "smollm3-3b-baseline")
MOE = of_recipe("moe-10b", "moe-10b-a1b-baseline")
DENSE_HYBRID = replace(DENSE, name="hybrid-dense-3b", hybrid_layer="*-")
MOE_HYBRID = replace(MOE, name="hybrid-moe-10b", hybrid_layer="*E")
