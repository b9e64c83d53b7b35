"""The tiny recipe on this device against the CPU, and without bags against stock Megatron."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainer import Job, Result

from tests.gpu.figures import Figure, Note
from tests.gpu.jobs import STOCK, run_all, run_on_cpu
from tests.gpu.machine import Machine
from tests.gpu.tiny import OURS, tiny_flags
from tst_megatron.demo import usual_tst_flags

# Two orders of summation on one machine are as far apart as chance has it; another one's, by which
# every product and every sum differs, may be this much further.
_TIMES = 10
_FIRST_STEP = 1e-5
_NAMES = ("lm loss", "grad-norm", "learning-rate")


def against_cpu(machine: Machine) -> Iterator[Figure | Note]:
    """Largest relative differences of losses and gradient norms, step by step."""
    steps = machine.sized(200, 20)
    start = _start(machine, steps)
    yield from _over_the_switch(machine, steps, start)
    yield from _without_bags(machine, steps)


def _start(machine: Machine, steps: int) -> tuple[str, ...]:
    """Flags that begin with the weights of one checkpoint, which differ on every device."""
    out = machine.folder / "start"
    save = (f"--save={out}", "--save-interval=3", "--exit-interval=3")
    run_on_cpu(machine, [Job(out, (*tiny_flags(machine, steps), *usual_tst_flags(), *save))])
    return (f"--load={out}", "--finetune")


def _over_the_switch(machine: Machine, steps: int, start: Sequence[str]) -> Iterator[Figure | Note]:
    flags = (*tiny_flags(machine, steps), *usual_tst_flags(), *start)
    (here,) = run_all(machine, [Job(machine.folder / "here", (*flags, *machine.local_flags))])
    # The same run with its micro-batch in two: another order of summation, and nothing else.
    cpu, halves = run_on_cpu(
        machine,
        [
            Job(machine.folder / "cpu", flags),
            Job(machine.folder / "cpu-halves", (*flags, "--micro-batch-size=2")),
        ],
    )
    stages = [line["stage"] for line in cpu.ledger.steps]
    yield Figure("steps in bags, and after the switch, both", len(set(stages)), "", 2, False)
    apart, own = _largest(here, cpu), _largest(halves, cpu)
    yield Figure("first step's loss, from the CPU's", _relative(here, cpu)[0], "", _FIRST_STEP)
    bound = _TIMES * max(own, 2.0**-24)
    yield Figure(f"losses of {steps} steps, furthest from the CPU's", apart, "", bound)
    yield Figure("the CPU's own, in another order of summation", own)
    yield Figure("last held-out loss, from the CPU's", _held_out(here, cpu), "", bound)


def _relative(one: Result, other: Result) -> list[float]:
    """Of every step's loss."""
    pairs = zip(one.losses, other.losses, strict=True)
    return [abs(mine - theirs) / abs(theirs) for mine, theirs in pairs]


def _largest(one: Result, other: Result) -> float:
    return max(_relative(one, other))


def _held_out(one: Result, other: Result) -> float:
    mine, theirs = (r.ledger.validations[-1]["next_token_loss"] for r in (one, other))
    return float(abs(mine - theirs) / theirs)


def _without_bags(machine: Machine, steps: int) -> Iterator[Figure | Note]:
    """Ours without a method's flag against Megatron's own program."""
    flags = (*tiny_flags(machine, steps), *machine.local_flags)
    stock_flags = tuple(flag for flag in flags if not flag.startswith(OURS))
    again = machine.sized(("stock again",), ())
    names = ("stock", "ours", *again)
    jobs = [
        Job(
            out := machine.folder / name.replace(" ", "-"),
            (*(flags if name == "ours" else stock_flags), f"--tensorboard-dir={out / 'scalars'}"),
            program=("-m", "tst_megatron", "pretrain") if name == "ours" else STOCK,
        )
        for name in names
    ]
    run_all(machine, jobs)
    scalars = {name: _scalars(job.out / "scalars") for name, job in zip(names, jobs, strict=True)}
    stock, all_of_them = scalars["stock"], len(_NAMES) * steps
    yield Figure("figures of stock Megatron that were read", len(stock), "", all_of_them, False)
    yield from _held_against(scalars, again)


def _held_against(
    scalars: Mapping[str, dict[tuple[str, int], float]], again: Sequence[str]
) -> Iterator[Figure | Note]:
    """Bit for bit, where stock Megatron is so with itself."""
    own = sum(_different(scalars[name], scalars["stock"]) for name in again)
    if again:
        yield Figure("figures of stock Megatron that differ when it is run again", own)
    what = "figures that differ from them"
    yield Figure(what, _different(scalars["ours"], scalars["stock"]), "", None if own else 0)
    if own:
        yield Note("nothing is bit for bit here: stock Megatron differs from itself")


def _different(one: dict[tuple[str, int], float], other: dict[tuple[str, int], float]) -> int:
    return sum(one.get(key) != other.get(key) for key in one.keys() | other.keys())


def _scalars(folder: Path) -> dict[tuple[str, int], float]:
    """Megatron's own log, in full float32, by name and step."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {(name, event.step): event.value for name in _NAMES for event in events.Scalars(name)}
