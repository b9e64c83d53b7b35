"""FP8 against bf16 over the switch, by the recipes' own precisions."""

from collections.abc import Iterator, Mapping

from trainer import Job, Result

from tests.gpu.curves import in_windows, relative, switches
from tests.gpu.figures import CannotRunHereError, Figure, Note
from tests.gpu.jobs import JobFailedError, failed, reason, run_all
from tests.gpu.machine import Machine
from tests.gpu.tiny import tiny_flags
from tst_megatron import recipes

_WITHIN = 0.02
# Of the sentence with which the trainer refuses a recipe (tst_megatron/trainer/machine.py).
_NOT_HERE = "does not run on this GPU"
_RECIPE = "smollm3-3b-baseline"
# Sizes that FP8's products take, and as wide as shows them.
_MODEL = (
    *("--num-layers=4", "--hidden-size=512", "--ffn-hidden-size=1536", "--num-attention-heads=8"),
    *("--seq-length=256", "--max-position-embeddings=256", "--micro-batch-size=8"),
    *("--global-batch-size=8", "--make-vocab-size-divisible-by=128", "--lr=5e-4"),
    "--use-distributed-optimizer",
)


def fp8(machine: Machine) -> Iterator[Figure | Note]:
    """Mean losses of ten steps in either phase, and the first steps after the switch."""
    steps = machine.sized(120, 20)
    base = (
        *tiny_flags(machine, steps),
        *machine.sized(_MODEL, ()),
        *("--tst-bag-size=4", "--tst-step-ratio=0.5", "--allow-repeats"),
    )
    variants = {"bf16": machine.te_flags, **_variants(machine)}
    jobs = [
        Job(machine.folder / name.replace(" ", "-"), (*base, *flags))
        for name, flags in variants.items()
    ]
    results = dict(zip(variants, run_all(machine, jobs, check=False), strict=True))
    bf16 = results.pop("bf16")
    if bf16.code:
        raise JobFailedError(f"the bf16 run ended with code {bf16.code}: {reason(bf16.output)}")
    refused = {name for name, result in results.items() if _NOT_HERE in result.output}
    yield from (Note(f"{name}: {reason(results[name].output)}") for name in sorted(refused))
    if refused == results.keys():
        raise CannotRunHereError("needs a card and a Transformer Engine that compute in FP8")
    for name, result in results.items():
        if name not in refused:
            yield from failed(name, result) if result.code else _apart(name, result, bf16)
    if machine.dry_run:
        yield Note("left to a GPU: every FP8 recipe; bf16 beside float32 stood for them")


def _apart(name: str, result: Result, bf16: Result) -> Iterator[Figure]:
    """Of a run from the one in bf16; delayed scales are of the steps before the switch."""
    (switch,) = switches(bf16)
    windows = in_windows(result, bf16)
    before = max(value for first, value in windows.items() if first < switch)
    after = max(value for first, value in windows.items() if first >= switch)
    yield Figure(f"{name}: in bags, furthest from bf16", before, "", _WITHIN)
    yield Figure(f"{name}: after the switch, furthest from bf16", after, "", _WITHIN)
    first = relative(result, bf16)[switch]
    yield Figure(f"{name}: the first step after the switch, from bf16", first, "", _WITHIN)


def _variants(machine: Machine) -> Mapping[str, tuple[str, ...]]:
    """What is compared with bf16: the precisions of the recipe, which say what each flag is for."""
    if machine.dry_run:
        return {"bf16 beside float32": ("--bf16",)}
    with_bf16 = recipes.load(f"{_RECIPE}+8xh100+bf16")
    variants = {}
    for name in ("fp8-delayed", "fp8-tensorwise", _finest()):
        layout = "b200" if name == "mxfp8" else "h100"
        values = recipes.load(f"{_RECIPE}+8x{layout}+{name}")
        own = {key: value for key, value in values.items() if with_bf16.get(key) != value}
        own.pop("micro-batch-size", None)
        variants[name] = (*machine.te_flags, *recipes.flags(own))
    return variants


def _finest() -> str:
    """The finest scales that the card computes with at full speed."""
    import torch

    return "mxfp8" if torch.cuda.get_device_capability()[0] >= 10 else "fp8-blockwise"
