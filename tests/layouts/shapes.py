"""The recipe-sized models as Megatron's flags, and their sizes by arithmetic.

The one idea: a shape is nothing but its flags. What a test expects of it, such as its number of
parameters, is computed from those flags by hand and not by Megatron.
"""

from dataclasses import dataclass, replace

_COMMON = (
    *("--group-query-attention", "--position-embedding-type=rope", "--normalization=RMSNorm"),
    *("--swiglu", "--disable-bias-linear", "--untie-embeddings-and-output-weights"),
    *("--attention-dropout=0", "--hidden-dropout=0", "--bf16"),
    # Divides both vocabularies at every tensor-parallel size up to 8: no layout pads them, and a
    # checkpoint fits all.
    "--make-vocab-size-divisible-by=16",
)

# SmolLM3-3B's shape with Llama 3's vocabulary, untied (arXiv 2605.06546, Section 4).
_DENSE_3B = (
    *("--num-layers=36", "--hidden-size=2048", "--ffn-hidden-size=11008"),
    *("--num-attention-heads=16", "--num-query-groups=4", "--kv-channels=128"),
    *("--seq-length=4096", "--max-position-embeddings=4096", "--rotary-base=500000"),
    "--vocab-size=128256",
    *_COMMON,
)

# Qwen3-MoE's shape scaled to 10B parameters, of which 1B work on a token (same section).
_MOE_10B = (
    *("--num-layers=32", "--hidden-size=1536", "--ffn-hidden-size=512"),
    *("--num-attention-heads=16", "--num-query-groups=4", "--kv-channels=128", "--qk-layernorm"),
    *("--seq-length=8192", "--max-position-embeddings=8192", "--rotary-base=1000000"),
    "--vocab-size=151936",
    *("--num-experts=128", "--moe-router-topk=8", "--moe-ffn-hidden-size=512"),
    *("--moe-router-load-balancing-type=aux_loss", "--moe-aux-loss-coeff=1e-3"),
    *("--moe-token-dispatcher-type=alltoall", "--moe-router-dtype=fp32"),
    *_COMMON,
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
        return self.size("vocab-size") * self.size("hidden-size")

    def _layer(self, num_experts: int) -> int:
        hidden, head = self.size("hidden-size"), self.size("kv-channels")
        queries = self.size("num-attention-heads") * head
        keys = self.size("num-query-groups") * head
        attention = hidden * (queries + 2 * keys) + queries * hidden
        norms = 2 * hidden + (2 * head if "--qk-layernorm" in self.flags else 0)
        router = hidden * self.size("num-experts")
        mlp = 3 * hidden * self.size("moe-ffn-hidden-size", self.size("ffn-hidden-size"))
        return attention + norms + router + num_experts * mlp


DENSE = Shape("dense-3b", _DENSE_3B)
MOE = Shape("moe-10b", _MOE_10B)
DENSE_HYBRID = replace(DENSE, name="hybrid-dense-3b", hybrid_layer="*-")
MOE_HYBRID = replace(MOE, name="hybrid-moe-10b", hybrid_layer="*E")
