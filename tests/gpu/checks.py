"""The checks, in their order of value: what each one is, what it needs, and where it stands.

The standard library alone. A check is a row here and a function that takes a
`tests.gpu.machine.Machine` and yields figures and notes (`tests.gpu.figures`).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One of them.

    Attributes:
        name: to ask for it.
        what: it looks at, for the page.
        function: ``module:function``.
        minutes: after which it is ended, on GPUs.
        gpus: that it needs at least.
        trains: whether it starts runs.
        least_s: seconds without which it is not begun.
    """

    name: str
    what: str
    function: str
    minutes: float
    gpus: int = 1
    trains: bool = True
    least_s: float = 45.0


CHECKS = (
    Check(
        "environment",
        "the image has what training needs, and the card's two ceilings",
        "tests.gpu.environment:environment",
        3,
        trains=False,
    ),
    Check(
        "loss",
        "every implementation of the loss of bags, weight and objective against float64, and no "
        "hidden synchronisation",
        "tests.gpu.loss:loss",
        5,
        trains=False,
    ),
    Check(
        "large-logits",
        "the loss of more than 2³¹ logits, row by row",
        "tests.gpu.loss:large_logits",
        4,
        trains=False,
    ),
    Check(
        "embedding",
        "the embedding of bags and its gradient against float64, its peak memory against the "
        "planner's",
        "tests.gpu.embedding:embedding",
        3,
        trains=False,
    ),
    Check(
        "against-cpu",
        "200 steps of the tiny recipe over the switch in float32 against the CPU's ledger; without "
        "bags stock Megatron's, bit for bit",
        "tests.gpu.against_cpu:against_cpu",
        5,
    ),
    Check(
        "resume",
        "Transformer Engine in bf16 over the switch, resumed in either phase: tiny, and two layers "
        "of the 3B model",
        "tests.gpu.resume:resume",
        6,
    ),
    Check(
        "growth",
        "a checkpoint of Transformer Engine's layers grown: silent ones add nothing, stacked ones "
        "train on in one run",
        "tests.gpu.growth:growth",
        4,
    ),
    Check(
        "upcycling",
        "a checkpoint of Transformer Engine's layers given experts: the loss goes on where it was, "
        "and they train on in one run",
        "tests.gpu.upcycling:upcycling",
        4,
    ),
    Check(
        "export",
        "checkpoints of Transformer Engine's layers as transformers computes, scores and writes "
        "them, and back again",
        "tests.gpu.export:export",
        5,
    ),
    Check("fp8", "FP8 recipes within 2 % of bf16's curve over the switch", "tests.gpu.fp8:fp8", 6),
    Check(
        "cuda-graphs",
        "CUDA graphs of Megatron's and of Transformer Engine's making, captured once",
        "tests.gpu.cuda_graphs:cuda_graphs",
        5,
    ),
    Check(
        "speed",
        "loss against Megatron's fused and unfused and a copy's bandwidth, a superposed step "
        "against the baseline's",
        "tests.gpu.speed:speed",
        6,
        trains=False,
    ),
    Check(
        "profiler",
        "launches, synchronisations and copies of a superposed step against the baseline's",
        "tests.gpu.profiler:profiler",
        4,
        trains=False,
    ),
    Check("clocks", "the ledger's seconds against events of the GPU", "tests.gpu.clocks:clocks", 3),
    Check("demo", "the demo and a run on this machine's CPU", "tests.gpu.on_cpu:demo", 6),
    Check(
        "models",
        "multi-token prediction, hybrid, grouped experts, no-op experts, blocks in depths, logits "
        "in chunks and packed documents, 50 steps each over the switch",
        "tests.gpu.models:models",
        5,
    ),
    Check(
        "comparison",
        "baseline and TST at equal FLOPs, at a size that a CPU does not reach",
        "tests.gpu.comparison:comparison",
        4,
        least_s=240.0,
    ),
    Check(
        "layouts",
        "the matrix of layouts on NCCL against one rank",
        "tests.gpu.layouts:layouts",
        20,
        gpus=2,
    ),
    Check(
        "collectives",
        "collectives of a superposed step against the baseline's, with tensor and data parallelism",
        "tests.gpu.profiler:collectives",
        4,
        gpus=2,
    ),
    Check(
        "overlaps",
        "--tp-comm-overlap, and the experts' overlap, which is refused until it is seen here",
        "tests.gpu.layouts:overlaps",
        6,
        gpus=2,
    ),
    Check("fsdp", "Megatron-FSDP against data parallelism", "tests.gpu.layouts:fsdp", 5, gpus=2),
    Check(
        "context-documents",
        "context parallelism with packed documents against one rank",
        "tests.gpu.layouts:context_documents",
        5,
        gpus=2,
    ),
    Check(
        "async-save",
        "asynchronous checkpoints, resumed over the switch",
        "tests.gpu.resume:async_save",
        5,
        gpus=2,
    ),
    Check(
        "restart",
        "--inprocess-restart is refused in a sentence, and what lifting that needs",
        "tests.gpu.restart:restart",
        3,
    ),
    Check(
        "recipe-3b",
        "the 3B recipe as shipped, 50 steps a phase, memory and step time against the planner's, "
        "the step at the utilisation that it assumes (`--mfu`)",
        "tests.gpu.recipe_3b:recipe_3b",
        35,
        gpus=8,
    ),
)

NUMBER = {check.name: number for number, check in enumerate(CHECKS)}
