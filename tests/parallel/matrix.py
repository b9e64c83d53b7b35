"""The models and layouts that are compared with one rank: a table to read, and to add a line to.

Which layouts of stock Megatron give the very numbers of one rank, without any bags, was measured
(``test_which_layouts_are_exact`` measures it again): those must do so with bags too.
"""

from dataclasses import dataclass, replace

from trainer import TINY

DEPTH = 4
"""Layers of every model: two stages of two chunks each need that many."""


def _tiny(**replaced: str | None) -> tuple[str, ...]:
    """The tiny model's flags with some replaced, or left out (None)."""
    flags = {flag.split("=")[0]: flag for flag in TINY}
    for name, value in replaced.items():
        flag = "--" + name.replace("_", "-")
        flags.pop(flag, None)
        if value is not None:
            flags[flag] = f"{flag}={value}" if value else flag
    return tuple(flags.values())


_MOE = (
    *("--num-experts=4", "--moe-router-topk=2", "--moe-ffn-hidden-size=32"),
    *("--moe-router-load-balancing-type=aux_loss", "--moe-aux-loss-coeff=1e-2"),
    *("--moe-shared-expert-intermediate-size=32", "--moe-router-dtype=fp32"),
)

_RECOMPUTED = ("--recompute-method=uniform", "--recompute-num-layers=1")

MODELS: dict[str, tuple[str, ...]] = {
    "dense": (*_tiny(num_layers=str(DEPTH)), "--group-query-attention", "--num-query-groups=2"),
    "moe": (*_tiny(num_layers=str(DEPTH)), *_MOE, "--moe-token-dispatcher-type=alltoall"),
    "tied": _tiny(
        num_layers=str(DEPTH),
        untie_embeddings_and_output_weights=None,
        position_embedding_type="learned_absolute",
    ),
    "heads": (*_tiny(num_layers=str(DEPTH)), "--mtp-num-layers=2"),
    "hybrid": (*_tiny(num_layers=None), "--hybrid-layer-pattern=*-*-"),
    "hybrid-moe": (
        *_tiny(num_layers=None),
        *_MOE,
        *("--moe-token-dispatcher-type=alltoall", "--hybrid-layer-pattern=*E*E"),
    ),
}

# The same parts in every layout, so that the same tokens are chosen. Weights are large enough for
# attention to tell apart the equal tokens of a line of dashes, whose scores else are all but equal.
_WITH_PARTS = ("--mod-parts=4", "--init-method-std=0.2")
_ROUTED = (*_WITH_PARTS, "--mod-capacity=0.25", "--mod-loss-coefficient=0.1")
_BY_THRESHOLD = (
    *(*_WITH_PARTS, "--mod-capacity=0.5", "--mod-layers=2-3", "--mod-sampling=threshold"),
    "--mod-threshold-decay=0.5",
)
MODELS |= {
    "routed": (*MODELS["dense"], *_ROUTED),
    "routed-moe": (*MODELS["moe"], *_ROUTED, "--mod-sampling=auxiliary"),
    "routed-heads": (*MODELS["heads"], *_ROUTED, "--recompute-granularity=full", *_RECOMPUTED),
    "routed-hybrid": (*MODELS["hybrid"], *_ROUTED, "--mod-layers=2,3"),
    "threshold": (*MODELS["dense"], *_BY_THRESHOLD),
    "threshold-moe": (*MODELS["moe"], *_BY_THRESHOLD),
}

_BIASED = ("--moe-router-score-function=sigmoid", "--moe-router-enable-expert-bias")
MODELS |= {
    "noop-moe": (*MODELS["moe"], "--noop-experts=2", *_BIASED),
    "noop-hybrid": (*MODELS["hybrid-moe"], "--noop-experts=2"),
}

# They reach 4 tokens back: as many as a chunk of a sequence has under context parallelism, and more
# than one of a text that is scored.
_OF_NGRAMS = ("--ngram-rows=30", "--ngram-orders=2-5")
MODELS |= {
    "ngrams": (*MODELS["dense"], *_OF_NGRAMS),
    "ngrams-moe": (*MODELS["moe"], *_OF_NGRAMS),
    "ngrams-heads": (*MODELS["heads"], *_OF_NGRAMS),
}

SCHEDULE = "--tst-schedule=4:0.3,2:0.2"

_TP = "--tensor-model-parallel-size=2"
_SP = "--sequence-parallel"
_PP = "--pipeline-model-parallel-size=2"
_CP = "--context-parallel-size=2"
_EP = "--expert-model-parallel-size=2"
_ETP1 = "--expert-tensor-parallel-size=1"
_VPP = "--num-layers-per-virtual-pipeline-stage=1"
_CHUNKS = "--tst-logits-chunk-size=12"
"""Of 32 rows; no divisor of them."""
_SHARDED = ("--use-distributed-optimizer", "--overlap-grad-reduce", "--overlap-param-gather")


@dataclass(frozen=True)
class Layout:
    """One way of spreading a model.

    Attributes:
        model: key of `MODELS`.
        num_ranks: processes.
        flags: Megatron's.
        large: left to ``make test-all``.
        own_flags: of the method, in runs with bags.
    """

    model: str
    num_ranks: int
    flags: tuple[str, ...]
    large: bool = False
    own_flags: tuple[str, ...] = ()


_UNEVEN = (_PP, "--decoder-first-pipeline-num-layers=1")

_FOR_BOTH: dict[str, Layout] = {
    "dp2": Layout("", 2, ()),
    "dp2-sharded": Layout("", 2, _SHARDED),
    "tp2-sp": Layout("", 2, (_TP, _SP)),
    "pp2": Layout("", 2, (_PP,)),
    "pp2-interleaved": Layout("", 2, (_PP, _VPP)),
    "pp2-uneven": Layout("", 2, _UNEVEN),
    "tp2-pp2": Layout("", 4, (_TP, _SP, _PP)),
    "tp2-pp2-dp2": Layout("", 8, (_TP, _SP, _PP, *_SHARDED), large=True),
}

_DENSE = {
    "tp2": Layout("dense", 2, (_TP,)),
    "cp2": Layout("dense", 2, (_CP,)),
    "fsdp2": Layout("dense", 2, ("--use-torch-fsdp2",)),
    "cp2-dp2": Layout("dense", 4, (_CP, *_SHARDED)),
}

_MIXTURE = {
    "ep2": Layout("moe", 2, (_EP,)),
    "ep2-allgather": Layout("moe", 2, (_EP, "--moe-token-dispatcher-type=allgather")),
    "ep2-sharded": Layout("moe", 2, (_EP, *_SHARDED)),
    "tp2-ep2": Layout("moe", 2, (_TP, _SP, _EP, _ETP1)),
    "tp2-ep2-etp2": Layout("moe", 4, (_TP, _SP, _EP, "--expert-tensor-parallel-size=2")),
}

_OF_OTHERS = {
    "tied-tp2": Layout("tied", 2, (_TP,), large=True),
    "tied-tp2-sp": Layout("tied", 2, (_TP, _SP)),
    "tied-pp2": Layout("tied", 2, (_PP,)),
    "heads-tp2-sp": Layout("heads", 2, (_TP, _SP), large=True),
    # Compared with whole logits on one rank: the main loss and the heads', in bags and after.
    "heads-tp2-sp-chunks": Layout("heads", 2, (_TP, _SP), own_flags=(_CHUNKS,)),
    # Not context parallelism: Megatron averages a head's loss over each rank's own positions, so
    # that without bags, too, its numbers are not those of one rank.
    "heads-pp2": Layout("heads", 2, (_PP,)),
    "hybrid-tp2-sp": Layout("hybrid", 2, (_TP, _SP), large=True),
    "hybrid-pp2": Layout("hybrid", 2, (_PP,)),
    "hybrid-moe-ep2": Layout("hybrid-moe", 2, (_EP,)),
    "routed-dp2-sharded": Layout("routed", 2, _SHARDED),
    "routed-tp2": Layout("routed", 2, (_TP,), large=True),
    "routed-tp2-sp": Layout("routed", 2, (_TP, _SP)),
    "routed-cp2": Layout("routed", 2, (_CP,)),
    "routed-cp2-tp2-pp2": Layout("routed", 8, (_CP, _TP, _SP, _PP), large=True),
    "routed-moe-tp2-ep2": Layout("routed-moe", 2, (_TP, _SP, _EP, _ETP1)),
    "routed-heads-pp2": Layout("routed-heads", 2, (_PP,)),
    "routed-hybrid-pp2": Layout("routed-hybrid", 2, (_PP,)),
    "threshold-tp2-sp": Layout("threshold", 2, (_TP, _SP)),
    "threshold-cp2": Layout("threshold", 2, (_CP,)),
    "threshold-moe-ep2": Layout("threshold-moe", 2, (_EP,)),
    "noop-moe-tp2-ep2": Layout("noop-moe", 2, (_TP, _SP, _EP, _ETP1)),
    "noop-moe-pp2": Layout("noop-moe", 2, (_PP,)),
    "noop-moe-ep2-sharded": Layout("noop-moe", 2, (_EP, *_SHARDED), large=True),
    "noop-moe-ep2-allgather": Layout(
        "noop-moe", 2, (_EP, "--moe-token-dispatcher-type=allgather"), large=True
    ),
    "noop-moe-cp2-tp2-pp2": Layout("noop-moe", 8, (_CP, _TP, _SP, _PP), large=True),
    "ngrams-dp2-sharded": Layout("ngrams", 2, _SHARDED, large=True),
    "ngrams-tp2": Layout("ngrams", 2, (_TP,), large=True),
    "ngrams-cp2-pp2": Layout("ngrams", 4, (_CP, _PP)),
    "ngrams-cp2-tp2-pp2": Layout("ngrams", 8, (_CP, _TP, _SP, _PP), large=True),
    "ngrams-moe-tp2-ep2": Layout("ngrams-moe", 2, (_TP, _SP, _EP, _ETP1), large=True),
    "ngrams-heads-tp2-sp": Layout("ngrams-heads", 2, (_TP, _SP)),
    "noop-hybrid-pp2": Layout("noop-hybrid", 2, (_PP,), large=True),
}


_SHOWN_BY_OTHERS = (
    *("moe-pp2-interleaved", "moe-pp2-uneven", "moe-dp2", "moe-dp2-sharded", "moe-tp2-pp2"),
    *("moe-ep2", "dense-tp2"),
)


def _named() -> dict[str, Layout]:
    layouts = {
        f"{model}-{name}": replace(layout, model=model)
        for model in ("dense", "moe")
        for name, layout in _FOR_BOTH.items()
    }
    layouts |= {f"dense-{name}": layout for name, layout in _DENSE.items()}
    layouts |= {f"moe-{name}": layout for name, layout in _MIXTURE.items()}
    # What dense layers have shown of experts, and one layout of another that it is a part of, are
    # left to `make test-all`.
    layouts |= {name: replace(layouts[name], large=True) for name in _SHOWN_BY_OTHERS}
    return layouts | _OF_OTHERS


LAYOUTS = _named()


EXACT = frozenset({"dense-dp2", "moe-dp2"})
"""Where stock Megatron, without any bags, gives the very numbers of one rank."""

LARGE = frozenset(name for name, layout in LAYOUTS.items() if layout.large)
