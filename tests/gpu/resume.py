"""Runs over the switch that are cut off in either phase and go on, and asynchronous checkpoints."""

import importlib.util
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from trainer import Job, Result

from tests.gpu.curves import relative, switches
from tests.gpu.figures import Figure, Note
from tests.gpu.jobs import other_losses, run_all
from tests.gpu.machine import Machine
from tests.gpu.text import small_text
from tests.gpu.tiny import tiny_flags
from tst_megatron import recipes
from tst_megatron.experiments.words import of_length

STEPS, CUTS = 16, (6, 12)
"""A checkpoint every sixth step: one before the switch and one after it."""
_SCHEDULE = "--tst-schedule={}:8steps"
# One rounding of bf16: what another order of summation in some kernel may leave of a loss.
_LATER = 2.0**-7
# Weights, master weights and Adam's moments of a model with two layers of the 3B's, three times.
_DISK_BYTES = 40 * 10**9
_DETERMINISTIC = {"NVTE_ALLOW_NONDETERMINISTIC_ALGO": "0"}


def resume(machine: Machine) -> Iterator[Figure | Note]:
    """Losses of the runs that go on, against those of the runs that were not cut off."""
    flags = machine.te_flags
    yield from _resumed(machine, "tiny", (*tiny_flags(machine, STEPS), *flags, _SCHEDULE.format(4)))
    free = shutil.disk_usage(machine.folder).free
    if not machine.dry_run and free < _DISK_BYTES:
        yield Note(f"not the two layers of the 3B model: {free / 1e9:.0f} GB are free on the disk")
        return
    yield from _resumed(machine, "two layers of the 3B", two_layers(machine))


def two_layers(machine: Machine) -> tuple[str, ...]:
    """The 3B recipe's model and batch with two of its layers; in a dry run as small as can be."""
    values = recipes.load("smollm3-3b-baseline+8xh100")
    left_out = machine.sized((), ("padded-vocab-size", "cross-entropy-loss-fusion", "bf16"))
    own = machine.sized(
        ("--num-layers=2", "--micro-batch-size=2", "--global-batch-size=4"),
        (
            *("--num-layers=2", "--hidden-size=32", "--ffn-hidden-size=64", "--kv-channels=8"),
            *("--num-attention-heads=4", "--num-query-groups=2", "--seq-length=64"),
            *("--max-position-embeddings=64", "--micro-batch-size=2", "--global-batch-size=4"),
            "--transformer-impl=local",
        ),
    )
    return (
        *recipes.flags({name: value for name, value in values.items() if name not in left_out}),
        *small_text(machine).flags,
        *of_length(STEPS, warmup=2, steps_a_validation=STEPS // 2, checkpoints=1),
        *("--tokenizer-type=SentencePieceTokenizer", "--eval-iters=1", "--log-interval=1"),
        *("--lr-wsd-decay-iters=2", "--allow-repeats", *own),
        *machine.sized(machine.fusion_flags, ()),
        _SCHEDULE.format(6),
    )


def _resumed(
    machine: Machine, name: str, flags: Sequence[str], more: Sequence[str] = ()
) -> Iterator[Figure | Note]:
    """The unbroken run, and those from its checkpoints before and after the switch."""
    root = machine.folder / name.replace(" ", "-")
    checkpoints = root / "whole" / "checkpoints"
    saving = (f"--save={checkpoints}", f"--save-interval={CUTS[0]}", *more)
    (whole,) = run_all(machine, [_job(root / "whole", (*flags, *saving))])
    load = f"--load={checkpoints}"
    jobs = [_job(root / str(cut), (*flags, load, f"--ckpt-step={cut}")) for cut in CUTS]
    results = run_all(machine, jobs)
    shutil.rmtree(checkpoints)
    yield other_losses(name, whole)
    (switch,) = switches(whole)
    between = CUTS[0] < switch <= CUTS[1]
    yield Figure(f"{name}: a cut before the switch, one after", between, "", 1, False)
    for cut, result in zip(CUTS, results, strict=True):
        yield from _apart(f"{name}, cut after step {cut}", cut, result, whole)


def _job(out: Path, flags: Sequence[str]) -> Job:
    return Job(out, tuple(flags), environment=_DETERMINISTIC)


def _apart(what: str, cut: int, resumed: Result, whole: Result) -> Iterator[Figure]:
    """The step after the cut has the same weights and the same text: the same forward pass."""
    apart = relative(resumed, whole)
    assert sorted(apart) == list(range(cut + 1, STEPS + 1)), "the run went on from another step"
    yield Figure(f"{what}: the next step's loss, relative difference", apart[cut + 1], "", 0)
    yield Figure(f"{what}: the largest of the later ones", max(apart.values()), "", _LATER)


def async_save(machine: Machine) -> Iterator[Figure | Note]:
    """The same with checkpoints that are written while training goes on."""
    flags = (*tiny_flags(machine, STEPS), *machine.te_flags, _SCHEDULE.format(4))
    has_nvidias = importlib.util.find_spec("nvidia_resiliency_ext")
    strategy = f"--async-strategy={'nvrx' if has_nvidias else 'mcore'}"
    asynchronous = ("--async-save", "--use-persistent-ckpt-worker", strategy)
    yield from _resumed(machine, "asynchronous", flags, machine.sized(asynchronous, ()))
    if machine.dry_run:
        yield Note("left to GPUs: asynchronous checkpoints, whose writer asks for one")
