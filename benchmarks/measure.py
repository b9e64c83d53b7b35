"""Timing in turns, peak memory, and the rows of the table.

The one idea: a figure is a ratio of two things measured side by side, and carries its spread.
"""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

Work = Callable[[], Any]
"""What is timed; what it returns is freed after the clock has stopped."""
Prepare = Callable[[], Work]
"""Makes the inputs of one turn, which is not timed, and gives the work on them."""
Say = Callable[[str], None]
"""Tells the user what is being measured."""
CPU, CUDA = "cpu", "cuda"
# More than the second-level cache of any GPU, so that a turn finds nothing of the last one's there.
_FLUSHED_BYTES = 2**28


@dataclass(frozen=True)
class Bench:
    """What the modules of rows are given.

    Attributes:
        say: tells what is being measured.
        device: `CPU` or `CUDA`.
        quick: tiny sizes and few turns, to see that everything runs; its figures say nothing.
    """

    say: Say
    device: str = CPU
    quick: bool = False

    def sized[T](self, on_cpu: T, on_gpu: T, quick: T) -> T:
        """The size that fits."""
        if self.quick:
            return quick
        return on_gpu if self.device == CUDA else on_cpu


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: ours.
        against: what it is compared with.
        quantity: what the ratio is of.
        ratio: ours over theirs.
        spread: lower and upper quartile of the ratios of single turns; the ratio itself, twice,
            where nothing varies.
        target: what the ratio must reach.
        at_most: whether the target is an upper bound, or a lower one.
        details: the measured figures, with their units in their names.
    """

    what: str
    against: str
    quantity: str
    ratio: float
    spread: tuple[float, float]
    target: float
    at_most: bool
    details: dict[str, float]

    @property
    def met(self) -> bool:
        """Whether the ratio reaches the target."""
        return self.ratio <= self.target if self.at_most else self.ratio >= self.target

    def as_json(self) -> dict[str, Any]:
        """For the results file."""
        return asdict(self) | {"met": self.met}


@dataclass(frozen=True)
class Turns:
    """What either side took in each turn: seconds by the clock, and of the processor's time.

    Another program's work shows in the first only; the targets are of the first. On a GPU the
    clock is the GPU's own, from its first kernel to the end of its last.
    """

    ours: list[float]
    theirs: list[float]
    ours_cpu: list[float]
    theirs_cpu: list[float]

    @property
    def medians(self) -> tuple[float, float]:
        """Seconds by the clock of ours and of theirs."""
        return statistics.median(self.ours), statistics.median(self.theirs)

    @property
    def cpu_ratio(self) -> float:
        """Processor time of ours over theirs."""
        return statistics.median(self.ours_cpu) / statistics.median(self.theirs_cpu)


def take_turns(ours: Prepare, theirs: Prepare, turns: int, device: str = CPU) -> Turns:
    """Time either side in every turn, after one turn that does not count."""
    timed = _timed_on_gpu if device == CUDA else _timed
    taken: tuple[list[tuple[float, float]], ...] = ([], [])
    for turn in range(turns + 1):
        # Who is first changes, in case that matters.
        for side in (0, 1) if turn % 2 else (1, 0):
            work = (ours, theirs)[side]()
            gc.collect()
            seconds = timed(work)
            del work
            if turn:
                taken[side].append(seconds)
    (our_seconds, our_cpu), (their_seconds, their_cpu) = (zip(*side, strict=True) for side in taken)
    return Turns(list(our_seconds), list(their_seconds), list(our_cpu), list(their_cpu))


def _timed(work: Work) -> tuple[float, float]:
    """Seconds by the clock, and of the processor's time."""
    begin = time.perf_counter(), time.process_time()
    kept = work()
    end = time.perf_counter(), time.process_time()
    del kept
    return end[0] - begin[0], end[1] - begin[1]


def _timed_on_gpu(work: Work) -> tuple[float, float]:
    """Seconds between two events of the GPU, its caches flushed before; and the processor's."""
    flushed = torch.empty(_FLUSHED_BYTES, dtype=torch.uint8, device=CUDA)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    flushed.zero_()  # And the host is ahead of the GPU when the clock starts.
    began = time.process_time()
    start.record()
    kept = work()
    end.record()
    torch.cuda.synchronize()
    del kept
    return start.elapsed_time(end) / 1e3, time.process_time() - began


def gpu_seconds(work: Work, turns: int = 10) -> float:
    """Median seconds of work on a GPU, after two turns that do not count."""
    return statistics.median([_timed_on_gpu(work)[0] for _ in range(turns + 2)][2:])


def time_row(
    what: str,
    against: str,
    ours: Prepare,
    theirs: Prepare,
    turns: int,
    at_most: float,
    device: str = CPU,
) -> Row:
    """A row of time: the ratio of the medians."""
    taken = take_turns(ours, theirs, turns, device)
    ours_s, theirs_s = taken.medians
    return Row(
        what,
        against,
        "time",
        ours_s / theirs_s,
        quartiles([a / b for a, b in zip(taken.ours, taken.theirs, strict=True)]),
        at_most,
        True,
        {
            "ours_ms": ours_s * 1e3,
            "theirs_ms": theirs_s * 1e3,
            "cpu_time_ratio": taken.cpu_ratio,
            "turns": turns,
        },
    )


def throughput_row(
    what: str, against: str, ours: Prepare, theirs: Prepare, turns: int, at_least: float, n: int
) -> Row:
    """A row of samples a second, where either side reads ``n`` samples of the same tokens."""
    taken = take_turns(ours, theirs, turns)
    ours_s, theirs_s = taken.medians
    return Row(
        what,
        against,
        "samples/s",
        theirs_s / ours_s,
        quartiles([b / a for a, b in zip(taken.ours, taken.theirs, strict=True)]),
        at_least,
        False,
        {
            "ours_per_s": n / ours_s,
            "theirs_per_s": n / theirs_s,
            "cpu_time_ratio": taken.cpu_ratio,
            "turns": turns,
        },
    )


def memory_row(
    what: str,
    against: str,
    ours: Prepare,
    theirs: Prepare,
    at_most: float,
    without: int = 0,
    device: str = CPU,
) -> Row:
    """A row of peak memory: bytes of torch's allocator above those at the start.

    Args:
        without: bytes that both need in any case and that are taken off.
    """
    our_bytes, their_bytes = (peak_bytes(side, device) - without for side in (ours, theirs))
    ratio = our_bytes / their_bytes
    return Row(
        what,
        against,
        "peak memory",
        ratio,
        (ratio, ratio),
        at_most,
        True,
        {"ours_mib": our_bytes / 2**20, "theirs_mib": their_bytes / 2**20},
    )


def peak_bytes(prepare: Prepare, device: str = CPU) -> int:
    """Most bytes of torch's allocator in use at once during a turn, its inputs included."""
    prepare()()
    gc.collect()
    if device == CUDA:
        return _peak_bytes_on_gpu(prepare)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        work = prepare()
        kept = work()
    del kept, work
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    in_use = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        in_use += event.nbytes()
        peak = max(peak, in_use)
    return peak


def _peak_bytes_on_gpu(prepare: Prepare) -> int:
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work = prepare()
    kept = work()
    del kept, work
    return int(torch.cuda.max_memory_allocated() - before)


def quartiles(values: list[float]) -> tuple[float, float]:
    """Lower and upper quartile."""
    lower, _, upper = statistics.quantiles(values, n=4)
    return lower, upper


def noise(turns: int = 15, device: str = CPU) -> tuple[float, float]:
    """Quartiles of the ratio of one piece of work to itself: how noisy the machine is."""
    matrix, row = torch.randn(512, 512, device=device), torch.randn(2**24, device=device)

    def prepare() -> Work:
        return lambda: (matrix @ matrix @ matrix, row.exp())

    taken = take_turns(prepare, prepare, turns, device)
    return quartiles([a / b for a, b in zip(taken.ours, taken.theirs, strict=True)])
