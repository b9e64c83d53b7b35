"""Megatron's TensorBoard folder as a ledger.

The one idea: every start of the run leaves an event file, which opens with all of Megatron's
arguments as text. Its wall-clock is that of its events since the file was opened; the time between
two starts is not the run's, and what a later start replays is left out of those before. Of several
evaluations at one step the first counts, as in a ledger.
"""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tst_megatron.errors import UserError
from tst_megatron.runs.flag_roles import Role, begun_otherwise
from tst_megatron.runs.ledger import Ledger
from tst_megatron.runs.old_schemas import flags_of_old, methods_in_old_flags
from tst_megatron.runs.scalars import (
    VALIDATION,
    Scalars,
    held_out_name,
    ledger_of_scalars,
    no_held_out_loss,
)
from tst_megatron.runs.stages import Vocabulary

_TEXT = "/text_summary"
_BY_SAMPLES = " vs samples"
_OF_EVALUATIONS = ("validation", "other-run-")
# Clocks are set right by so much now and then.
_SET_BACK_S = 1.0
# A record's length and its content have a checksum each.
_FRAME = 8 + 4 + 4
_HOURS = (
    "Read from TensorBoard: its hours are the time from when an event file was opened to its last "
    "event, evaluations, checkpoints and pauses in between among them; start-up before that, what "
    "came after, and the time between starts are not in them."
)
_DAMAGED = (
    "{} is damaged or was cut off: its last {:,} bytes were not read, and what they hold is "
    "missing."
)
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")


@dataclass(frozen=True)
class _Start:
    """One event file: (step, value, time) of each tag, arguments, and bytes that are damaged."""

    file: Path
    opened: float
    closed: float
    events: Mapping[str, list[tuple[int, float, float]]]
    flags: Mapping[str, Any]
    unread: int

    @property
    def by_step(self) -> dict[str, list[tuple[int, float, float]]]:
        """The events whose step is an iteration."""
        return {tag: of for tag, of in self.events.items() if not tag.endswith(_BY_SAMPLES)}


def is_event_file(path: Path) -> bool:
    """Whether a file is called as TensorBoard calls them."""
    return "tfevents" in path.name


def event_files(folder: Path) -> list[Path]:
    """TensorBoard's files in a folder, in the order they were begun."""
    return sorted(path for path in folder.iterdir() if path.is_file() and is_event_file(path))


def ledger_of_events(path: Path, vocabulary: Vocabulary, asked: Sequence[str] = ()) -> Ledger:
    """A run from an event file, or from a folder with those of all its starts.

    Args:
        path: of the file or folder.
        vocabulary: of methods that it may have had.
        asked: names of the held-out loss, in place of Megatron's.

    Raises:
        UserError: it has no scalars, or none of a held-out loss; the files are of two runs; or a
            clock or a step is below 0.
    """
    files = event_files(path) if path.is_dir() else [path]
    starts = sorted(map(_read, files), key=lambda start: start.opened)
    _check_one_run(path, starts)
    scalars, passed = Scalars(), 0.0
    notes = [_DAMAGED.format(start.file.name, start.unread) for start in starts if start.unread]
    for start in starts:
        first = _first_made(scalars, start, asked)
        if first is not None:
            tells = starts[0].flags.keys() & start.flags.keys() & set(Role.EVENT_FILES.value)
            if not tells or _is_of_another_length(starts[0], start):
                _refuse_if_begun_anew(path, scalars, start, first)
            if not tells:
                notes += _replaced(scalars, start, first)
            scalars.forget_after(first - 1)
        _take_over(scalars, start, passed, asked)
        passed += start.closed - start.opened
    if not scalars.values:
        raise UserError(f"{path} has no scalars in its event files: give another folder")
    held_out = held_out_name(scalars.values, asked)
    if held_out is None:
        raise no_held_out_loss(path, "scalar", scalars.values, asked)
    return ledger_of_scalars(
        path,
        "tensorboard",
        _header(starts[-1].flags),
        scalars,
        vocabulary,
        held_out,
        [_HOURS, *notes],
    )


def _read(file: Path) -> _Start:
    # This import takes most of a second, and few comparisons need it.
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader

    size = file.stat().st_size
    # 0 keeps every event; what a start replays is left out here, as its samples have other steps.
    accumulator = EventAccumulator(
        str(file), size_guidance={"scalars": 0, "tensors": 0}, purge_orphaned_data=False
    )
    accumulator.Reload()
    # It stops at damage without a word.
    read = sum(len(record) + _FRAME for record in RawEventFileLoader(str(file)).Load())
    tags = accumulator.Tags()
    events = {
        tag: [(event.step, event.value, event.wall_time) for event in accumulator.Scalars(tag)]
        for tag in tags["scalars"]
    }
    times = [time for of_tag in events.values() for _, _, time in of_tag]
    opened = accumulator.FirstEventTimestamp() if times else 0.0
    flags = {
        tag.removesuffix(_TEXT): _value(accumulator.Tensors(tag)[-1].tensor_proto.string_val)
        for tag in tags["tensors"]
        if tag.endswith(_TEXT)
    }
    closed = max(times, default=opened)
    return _Start(file, opened, closed, events, flags, max(0, size - read))


def _value(texts: Any) -> Any:
    """An argument from its text, as Python writes it; what it does not read stays text."""
    text = b"".join(texts).decode(errors="replace")
    if text in ("None", "True", "False") or text[:1] in ("[", "(", "{") or _NUMBER.fullmatch(text):
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text
    return text


def _check_one_run(path: Path, starts: list[_Start]) -> None:
    first = starts[0]
    for start in starts[1:]:
        name = begun_otherwise({"flags": first.flags}, {"flags": start.flags}, Role.EVENT_FILES)
        if name is not None:
            raise UserError(
                f"{path} holds two runs: {name} is {first.flags[name]} in {first.file.name} and "
                f"{start.flags[name]} in {start.file.name}, so put each into a folder of its own"
            )


def _first_made(scalars: Scalars, start: _Start, asked: Sequence[str]) -> int | None:
    """The first step that a start made; None where it made none, as at the run's end.

    Args:
        scalars: of the starts before.
        start: the next one.
        asked: names of the held-out loss, in place of Megatron's.
    """
    held_out = {
        tag: {step for step, _, _ in of_tag}
        for tag, of_tag in start.by_step.items()
        if _is_held_out(tag, asked)
    }
    evaluated = set().union(*held_out.values())
    made: set[int] = set()
    for tag, of_tag in start.by_step.items():
        if tag in held_out or any(word in tag for word in _OF_EVALUATIONS):
            continue
        steps = {step for step, _, _ in of_tag}
        # Another program may call anything else that it evaluates as it likes.
        if not asked or tag + _BY_SAMPLES in start.events or len(steps) > len(evaluated):
            made |= steps
    before = {step for tag in held_out for step in scalars.values.get(tag, {})}
    if not made and before and len(evaluated) == 1 and max(evaluated) >= max(before):
        return None
    return min(made or evaluated, default=None)


def _is_of_another_length(first: _Start, start: _Start) -> bool:
    """Whether the run was made longer or shorter, if it is the same."""
    lengths = {one.flags["train_iters"] for one in (first, start) if "train_iters" in one.flags}
    return len(lengths) > 1


def _refuse_if_begun_anew(path: Path, scalars: Scalars, start: _Start, first: int) -> None:
    logged = [step for by_step in scalars.values.values() for step in by_step]
    if logged and first <= min(logged):
        raise UserError(
            f"{path} holds two runs, or one that was begun anew: {start.file.name} begins at step "
            f"{first:,}, before or where those before it do, so put each into a folder of its own"
        )


def _replaced(scalars: Scalars, start: _Start, first: int) -> list[str]:
    """What is said of steps that a start replaces, where no argument tells that it is the run's."""
    logged = {step for by_step in scalars.values.values() for step in by_step}
    replaced = [step for step in logged if step >= first]
    if not replaced:
        return []
    return [
        f"{start.file.name} goes back to step {first:,}: {len(replaced):,} steps that were logged "
        f"before, up to {max(replaced):,}, are taken for replayed and left out."
    ]


def _is_held_out(tag: str, asked: Sequence[str]) -> bool:
    return tag in asked or tag.startswith(VALIDATION)


def _take_over(scalars: Scalars, start: _Start, passed: float, asked: Sequence[str]) -> None:
    """Add what a start logged.

    Args:
        scalars: of the starts before, without what it replays.
        start: the next one.
        passed: seconds that those before took.
        asked: names of the held-out loss, in place of Megatron's.
    """
    for tag, of_tag in start.by_step.items():
        for step, value, time in of_tag:
            # After the last step Megatron validates once more, on other samples, and then on the
            # test set, all under the same tag.
            if _is_held_out(tag, asked) and step in scalars.values.get(tag, {}):
                continue
            scalars.add(tag, step, value, passed + _elapsed(start, time))
        for step, samples in _samples(of_tag, start.events.get(tag + _BY_SAMPLES, [])):
            scalars.samples[step] = samples


def _elapsed(start: _Start, time: float) -> float:
    """Seconds since a file was opened."""
    seconds = time - start.opened
    return 0.0 if -_SET_BACK_S < seconds < 0 else seconds


def _samples(
    by_step: list[tuple[int, float, float]], by_samples: list[tuple[int, float, float]]
) -> Iterator[tuple[int, float]]:
    """(step, samples): Megatron logs a value twice, the second time with its samples as step."""
    if len(by_step) == len(by_samples):
        for (step, _, _), (samples, _, _) in zip(by_step, by_samples, strict=True):
            yield step, float(samples)


def _header(flags: Mapping[str, Any]) -> dict[str, Any]:
    """What there is of a ledger's header in the arguments."""
    header: dict[str, Any] = {"flags": flags_of_old(flags)}
    for name in ("seed", "world_size"):
        if flags.get(name) is not None:
            header[name] = flags[name]
    # Without either of both it was trained by another program, which may have had any method.
    methods = _methods(flags.get("methods"))
    methods = methods_in_old_flags(flags) if methods is None else methods
    if methods is not None:
        header["methods"] = methods
    return header


def _methods(saved: Any) -> list[dict[str, Any]] | None:
    """What a run's methods are in its arguments, as a ledger's header has them."""
    if not isinstance(saved, dict):
        return None
    return [{"name": name, **told} for name, told in saved.items() if isinstance(told, dict)]
