"""Layouts of several GPUs against one: the tests' matrix on NCCL, and what overlaps with what."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from matrix import LAYOUTS, MODELS, SCHEDULE
from trainer import Job, Result

from tests.gpu.curves import in_windows, relative
from tests.gpu.figures import Figure, Note
from tests.gpu.jobs import failed, run_all
from tests.gpu.machine import Machine
from tests.gpu.text import small_text
from tests.gpu.tiny import tiny_flags
from tests.gpu.unrefused_pretrain import DOCUMENTS, EXPERTS
from tst_megatron.demo import BASELINE

# The CPU's layouts are within 1e-5 of one rank; a GPU's sums have more orders.
_FLOAT32 = 1e-4
# One rounding of bf16, which is where another order of summation ends.
_BF16 = 2.0**-7
_WITHIN = 0.01
_DRY_BATCH = ("--micro-batch-size=2",)
_DRY = ("dense-dp2", "dense-tp2-sp")
# Megatron asks for it with tensor and context parallelism on Hopper and before.
_ONE_QUEUE = {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}
# FSDP refuses one queue, which the image or whoever calls may have asked for.
_MANY_QUEUES = {"CUDA_DEVICE_MAX_CONNECTIONS": "32"}
# Transformer Engine multiplies float32 in TF32 (cublaslt_gemm.cu asks for
# CUBLAS_COMPUTE_32F_FAST_TF32), 10 bits of mantissa for 23: with the inputs of a CPU's products
# rounded so, dense-tp2-sp's gradient norms are 6e-5 from one rank's, which leaves no bound that
# says anything. The variable holds over what a program asks of NVIDIA's libraries.
_WHOLE_FLOAT32 = {"NVIDIA_TF32_OVERRIDE": "0"}
_WIDE = (
    *("--num-layers=4", "--hidden-size=512", "--ffn-hidden-size=1536", "--num-attention-heads=8"),
    *("--seq-length=256", "--max-position-embeddings=256", "--micro-batch-size=4"),
    *("--global-batch-size=16", "--lr=5e-4"),
)
_BAGS = ("--tst-bag-size=4", "--tst-step-ratio=0.5", "--allow-repeats")
_PACKED = (
    *("--tst-bag-boundary=document", "--dataloader-inter-document-masking", "--eod-mask-loss"),
    "--micro-batch-size=1",
)


def layouts(machine: Machine) -> Iterator[Figure | Note]:
    """Losses and gradient norms of ten steps over two switches, from the same weights."""
    names = [
        name
        for name, layout in LAYOUTS.items()
        if (name in _DRY if machine.dry_run else layout.num_ranks <= machine.gpus)
    ]
    precisions = {name: "bf16" if "cp2" in name else "float32" for name in names}
    models = {(LAYOUTS[name].model, precisions[name]) for name in names}
    starts = {key: machine.folder / f"start-{'-'.join(key)}" for key in sorted(models)}
    run_all(machine, [_start(machine, *key, out) for key, out in starts.items()])
    one_rank = _jobs(machine, {f"one-{'-'.join(key)}": (*key, 1, ()) for key in starts}, starts)
    wanted = {
        name: (
            *(layout.model, precisions[name], layout.num_ranks),
            (*layout.flags, *layout.own_flags),
        )
        for name, layout in ((name, LAYOUTS[name]) for name in names)
    }
    references = dict(zip(starts, run_all(machine, one_rank), strict=True))
    several = run_all(machine, _jobs(machine, wanted, starts), check=False)
    for name, result in zip(names, several, strict=True):
        if result.code:
            yield from failed(name, result)
            continue
        reference = references[LAYOUTS[name].model, precisions[name]]
        bound = _FLOAT32 if precisions[name] == "float32" else _BF16
        what = f"{name}, {precisions[name]}: from one rank"
        yield Figure(what, _apart(result, reference), "", bound)
    if machine.dry_run:
        others = len(LAYOUTS) - len(names)
        yield Note(f"left to GPUs: {others} other layouts, which the tests have on gloo")


def _apart(one: Result, other: Result) -> float:
    """Largest relative difference of a step's loss or gradient norm."""
    norms = zip(one.grad_norms, other.grad_norms, strict=True)
    of_norms = [abs(mine - theirs) / theirs for mine, theirs in norms]
    return max(*relative(one, other).values(), *of_norms)


def _modules(machine: Machine, precision: str) -> tuple[str, ...]:
    """Transformer Engine's, whose norms know sequence parallelism."""
    if machine.dry_run:
        return ()
    if precision == "bf16":
        return machine.te_flags
    return (*(flag for flag in machine.te_flags if flag != "--bf16"), "--attention-backend=unfused")


def _start(machine: Machine, model: str, precision: str, out: Path) -> Job:
    # The first step's learning rate is 0: a few steps make the weights tell.
    save = (f"--save={out}", "--save-interval=3", "--exit-interval=3")
    own = _modules(machine, precision)
    flags = (*MODELS[model], *small_text(machine).flags, *own, *save)
    return Job(out, flags, environment=_environment(precision, ()))


def _jobs(
    machine: Machine,
    wanted: dict[str, tuple[str, str, int, Sequence[str]]],
    starts: dict[tuple[str, str], Path],
) -> list[Job]:
    return [
        Job(
            machine.folder / name,
            (
                *(*MODELS[model], *small_text(machine).flags, *_modules(machine, precision)),
                *(*own, SCHEDULE, f"--load={starts[model, precision]}", "--finetune"),
            ),
            num_ranks,
            environment=_environment(precision, own),
        )
        for name, (model, precision, num_ranks, own) in wanted.items()
    ]


def _environment(precision: str, flags: Sequence[str]) -> dict[str, str]:
    queues = _MANY_QUEUES if "--use-torch-fsdp2" in flags else _ONE_QUEUE
    return queues | (_WHOLE_FLOAT32 if precision == "float32" else {})


def _wide(machine: Machine, steps: int, recipe: str = BASELINE) -> tuple[str, ...]:
    """A run over the switch that is as wide as overlaps need, in bf16."""
    return (
        *(*tiny_flags(machine, steps, recipe), *machine.sized(_WIDE, _DRY_BATCH)),
        *(*_BAGS, *machine.te_flags),
    )


def overlaps(machine: Machine) -> Iterator[Figure | Note]:
    """Runs with an overlap of communication against the same without it."""
    steps = machine.sized(40, 8)
    tensor = ("--tensor-model-parallel-size=2", "--sequence-parallel")
    expert = ("--expert-model-parallel-size=2",)
    dense, moe = (_wide(machine, steps, recipe) for recipe in (BASELINE, "tiny-moe-baseline"))
    of_tensor = machine.sized(("--tp-comm-overlap",), ())
    of_experts = machine.sized((EXPERTS,), ())
    yield from _beside(machine, "--tp-comm-overlap", (*dense, *tensor), of_tensor, _ONE_QUEUE)
    yield from _beside(machine, EXPERTS, (*moe, *expert), of_experts, _MANY_QUEUES, EXPERTS)
    if machine.dry_run:
        yield Note("left to GPUs: either overlap; the same run twice stood for it")


def _beside(
    machine: Machine,
    name: str,
    flags: Sequence[str],
    own: Sequence[str],
    environment: dict[str, str],
    lifted: str = "",
) -> Iterator[Figure | Note]:
    """A run with flags of its own against the run without them."""
    program = ("-m", "tst_megatron", "pretrain")
    unrefused = ("-m", "tests.gpu.unrefused_pretrain", lifted)
    root = machine.folder / name.removeprefix("--")
    jobs = [
        Job(root / "without", tuple(flags), 2, environment=environment),
        Job(root / "with", (*flags, *own), 2, unrefused if lifted else program, environment),
    ]
    without, result = run_all(machine, jobs, check=False)
    for one in (without, result):
        if one.code:
            yield from failed(name, one)
            return
    apart = max(in_windows(result, without).values())
    yield Figure(f"{name}: losses, furthest from the run without", apart, "", _WITHIN)


def fsdp(machine: Machine) -> Iterator[Figure | Note]:
    """Megatron-FSDP against data parallelism, losses of ten steps."""
    steps = machine.sized(40, 8)
    flags = _wide(machine, steps)
    own = machine.sized(
        (
            *("--use-megatron-fsdp", "--data-parallel-sharding-strategy=optim_grads_params"),
            *("--use-distributed-optimizer", "--ckpt-format=fsdp_dtensor"),
            "--no-gradient-accumulation-fusion",
        ),
        ("--use-torch-fsdp2",),
    )
    name = machine.sized("Megatron-FSDP", "torch's FSDP2")
    yield from _beside(machine, name, flags, own, _MANY_QUEUES)
    if machine.dry_run:
        yield Note("left to GPUs: Megatron-FSDP; torch's FSDP2 stood for it")


def context_documents(machine: Machine) -> Iterator[Figure | Note]:
    """Packed documents on two context-parallel ranks against one."""
    steps = machine.sized(40, 8)
    flags = (*_wide(machine, steps), *_PACKED)
    context = machine.sized(("--context-parallel-size=2",), ())
    unrefused = ("-m", "tests.gpu.unrefused_pretrain", DOCUMENTS)
    root = machine.folder
    jobs = [
        Job(root / "one", flags, environment=_ONE_QUEUE),
        Job(root / "two", (*flags, *context), 2, unrefused, environment=_ONE_QUEUE),
    ]
    one, two = run_all(machine, jobs)
    apart = max(in_windows(two, one).values())
    yield Figure("two ranks, losses, furthest from one's", apart, "", _WITHIN)
    if machine.dry_run:
        yield Note("left to GPUs: context parallelism; data parallelism stood for it")
