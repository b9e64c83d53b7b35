"""The other models and settings that bags have, over the switch, on this device and on the CPU."""

import math
from collections.abc import Iterator, Sequence

from trainer import Job

from tests.gpu.curves import switches
from tests.gpu.figures import Figure, Note
from tests.gpu.jobs import JobFailedError, failed, other_losses, run_all, run_on_cpu
from tests.gpu.machine import Machine
from tests.gpu.tiny import tiny_flags

# Weights are drawn anew on every device, and fifty steps do not forget them.
_WITHIN = 0.1

_BAGS = ("--tst-bag-size=4", "--tst-step-ratio=0.5", "--allow-repeats")


def _flags(machine: Machine, steps: int) -> dict[str, tuple[str, ...]]:
    """The runs, by name."""
    tiny = tiny_flags(machine, steps)
    return {
        "multi-token prediction": (*tiny, "--mtp-num-layers=1"),
        "hybrid": (
            *tiny_flags(machine, steps, leave_out=("num-layers",)),
            "--hybrid-layer-pattern=*-*-",
        ),
        "grouped experts": (
            *tiny_flags(machine, steps, "tiny-moe-baseline"),
            "--moe-grouped-gemm",
        ),
        "no-op experts": (*tiny_flags(machine, steps, "tiny-moe-noop"), "--moe-grouped-gemm"),
        "in depths": tiny_flags(machine, steps, "tiny-mod"),
        "in depths by threshold": (
            *tiny_flags(machine, steps, "tiny-mod"),
            *("--mod-sampling=threshold", "--mod-threshold-decay=0.8"),
        ),
        "logits in chunks": (*tiny, "--tst-logits-chunk-size=64"),
        "packed documents": (
            *(*tiny, "--tst-bag-boundary=document"),
            *("--dataloader-inter-document-masking", "--eod-mask-loss"),
        ),
    }


def models(machine: Machine) -> Iterator[Figure | Note]:
    """Losses at the end: below what knowing nothing costs, and near the CPU's."""
    steps = machine.sized(50, 10)
    flags = _flags(machine, steps)
    jobs = [
        Job(machine.folder / _folder(n), (*own, *_BAGS, *machine.te_flags))
        for n, own in flags.items()
    ]
    here = dict(zip(flags, run_all(machine, jobs, check=False), strict=True))
    on_cpu = [Job(machine.folder / f"{_folder(n)}-cpu", (*own, *_BAGS)) for n, own in flags.items()]
    cpu = dict(zip(flags, run_on_cpu(machine, on_cpu), strict=True))
    for name, result in here.items():
        if result.code:
            yield from failed(name, result)
            continue
        yield Figure(f"{name}: steps", len(result.losses), "", steps, False)
        yield other_losses(name, result)
        yield Figure(f"{name}: switches", len(switches(result)), "", 1, False)
        mine, theirs = (_held_out(r.ledger.validations) for r in (result, cpu[name]))
        uniform = math.log(result.ledger.header["tokenizer"]["padded_vocab_size"])
        yield Figure(f"{name}: held-out loss", mine, "nats", uniform)
        yield Figure(f"{name}: from the CPU's", abs(mine - theirs) / theirs, "", _WITHIN)


def _folder(name: str) -> str:
    return name.replace(" ", "-")


def _held_out(validations: Sequence[dict]) -> float:
    if not validations:
        raise JobFailedError("the run has no validation in its ledger")
    return float(validations[-1]["next_token_loss"])
