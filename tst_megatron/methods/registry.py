"""The methods that there are, in the order in which they are applied; nobody else names one.

Adding a method is a folder of ``methods/`` and a line here, or a package of one's own with an entry
point (docs/architecture.md).
"""

import argparse
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from tst_megatron.errors import UserError
from tst_megatron.methods.composition import Composed
from tst_megatron.methods.method import Method, NeedsGpu, Ordinary, Run
from tst_megatron.methods.story import differences_told
from tst_megatron.runs.facts import TOPICS, Difference, Facts, Topic
from tst_megatron.runs.stages import CombinationError
from tst_megatron.stock import flags

_MODULES = [
    "tst_megatron.methods.superposition.method",
    "tst_megatron.methods.growth.method",
    "tst_megatron.methods.upcycling.method",
    "tst_megatron.methods.depths.method",
    "tst_megatron.methods.noop_experts.method",
    "tst_megatron.methods.proxy.method",
    "tst_megatron.methods.ngrams.method",
]
"""Each has a ``METHOD``. What a method needs of Megatron it imports when it is asked for it."""


COMMANDS = (
    (
        ("checkpoint", "grow"),
        "make a larger model's checkpoint of a small model's, without a GPU",
        "tst_megatron.methods.growth.checkpoint_grow",
    ),
    (
        ("checkpoint", "upcycle"),
        "make a checkpoint with experts of a dense model's, without a GPU",
        "tst_megatron.methods.upcycling.checkpoint_upcycle",
    ),
)
"""Commands that a method brings along: their words, their purpose and their module."""

_GROUP = "tst_megatron.methods"
"""Of entry points; what each names is a `Method`, such as ``my_package.method:METHOD``."""


@cache
def methods() -> tuple[Method, ...]:
    """All methods: ours, then those of installed packages in the order of their names.

    Raises:
        UserError: a package's cannot be loaded, or has a name or a prefix that another has.
    """
    found: list[Method] = [import_module(module).METHOD for module in _MODULES]
    for point in sorted(entry_points(group=_GROUP), key=lambda point: point.name):
        method = _of_package(point)
        for other in found:
            if method.name == other.name or method.flag_prefix == other.flag_prefix:
                raise UserError(
                    f"{_in_words(point)} is named {method.name}, with flags that begin with "
                    f"--{method.flag_prefix}-, and another method has one of them too: uninstall "
                    "either"
                )
        _check_flags_of(point, method)
        found.append(method)
    return tuple(found)


def _of_package(point: EntryPoint) -> Method:
    try:
        method = point.load()
    # It is anyone's code, and so fails in any way.
    except Exception as error:
        raise UserError(
            f"{_in_words(point)} cannot be loaded: {type(error).__name__}: {error}; mend the "
            "package, or uninstall it"
        ) from None
    if not isinstance(method, Method):
        raise UserError(
            f"{_in_words(point)} is no method: let its entry point name an instance of a subclass "
            "of tst_megatron.methods.method.Method"
        )
    for name in ("name", "flag_prefix"):
        if not isinstance(getattr(method, name, None), str):
            raise UserError(f"{_in_words(point)} has no {name}: give its class one")
    return method


def _check_flags_of(point: EntryPoint, method: Method) -> None:
    """Flags of a package begin with its prefix, so that they are nobody else's."""
    parser = argparse.ArgumentParser(add_help=False)
    try:
        method.add_arguments(parser)
        method.is_on(parser.parse_args([]))
    except Exception as error:
        raise UserError(
            f"{_in_words(point)} cannot be used: {type(error).__name__}: {error}; mend the "
            "package, or uninstall it"
        ) from None
    for name in parser._option_string_actions:
        if not f"{name}-".startswith(f"--{method.flag_prefix}-"):
            raise UserError(
                f"{_in_words(point)} adds the flag {name}, which does not begin with "
                f"--{method.flag_prefix}-: mend the package, or uninstall it"
            )


def _in_words(point: EntryPoint) -> str:
    package = "" if point.dist is None else f" of the package {point.dist.name}"
    return f"the method {point.name}{package} ({point.value})"


def method_named(name: str) -> Method | None:
    """The method of a name, as ledgers have it; None if there is none, or not any more."""
    return next((method for method in methods() if method.name == name), None)


def known_differences(names: Iterable[str], one: Facts, other: Facts) -> dict[Topic, Difference]:
    """What two runs with these methods differ in, so that a comparison of them means nothing.

    Args:
        names: of the methods of both.
        one: of a run.
        other: of the other.

    Returns:
        The first fact that differs in each topic that has one.
    """
    stories = [method.story() for name in names if (method := method_named(name)) is not None]
    found = {topic: differences_told(topic, one, other, stories) for topic in TOPICS}
    return {topic: told[0] for topic, told in found.items() if told}


def add_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add our flags to a parser, Megatron's or a smaller one: any run's, and every method's.

    Megatron takes it as its ``extra_args_provider``.
    """
    flags.add_arguments(parser)
    for method in methods():
        method.add_arguments(parser)
    return parser


def check_own_flags(args: argparse.Namespace) -> None:
    """Check our flags, any run's and every method's, by themselves.

    Raises:
        UserError: a value is out of range, or flags contradict one another.
    """
    flags.check_own_flags(args)
    for method in methods():
        method.check(args)


def check_flags(args: argparse.Namespace) -> None:
    """Check our flags by themselves and beside Megatron's.

    Args:
        args: all of Megatron's, before or after its validation.

    Raises:
        UserError: a value is out of range, or flags contradict one another.
    """
    check_own_flags(args)
    flags.check_beside(args)
    for method in methods():
        method.check_beside(args)


def needs_gpu(args: argparse.Namespace) -> tuple[NeedsGpu, ...]:
    """What the run's methods ask for that only a GPU has."""
    return tuple(need for method in methods() for need in method.needs_gpu(args))


def active(args: argparse.Namespace) -> tuple[Method, ...]:
    """The methods that the flags ask for."""
    return tuple(method for method in methods() if method.is_on(args))


def run_of(args: argparse.Namespace) -> Run:
    """What the run's methods make of it; `Ordinary` without one.

    Raises:
        UserError: a method cannot do what its flags ask for, or two do not go together.
    """
    runs = [method.run(args) for method in active(args)]
    if not runs:
        return Ordinary(args)
    if len(runs) == 1:
        return runs[0]
    for run in runs:
        run.check_with([other for other in runs if other is not run])
    return _composed(runs)


def check_weights(
    args: argparse.Namespace, saved: argparse.Namespace, run: Run, made_at: int | None
) -> None:
    """Check that the run's methods, and those that it is without, can have a checkpoint's weights.

    Args:
        args: Megatron's validated arguments.
        saved: the checkpoint's.
        run: what the run's methods make of it.
        made_at: the checkpoint's step, where the model is made from it as from another one; None
            where it is the same.

    Raises:
        UserError: one cannot.
    """
    parts = {part.name: part for part in run.parts}
    for method in methods():
        before = method.remembered(saved)
        part = parts.get(method.name)
        if part is not None and made_at is not None:
            part.check_made(args, before, made_at)
        elif part is not None:
            part.check_weights(args, before)
        elif before is not None:
            is_made = made_at is not None
            asked = method.why_not_made_without if is_made else method.why_not_without
            if (why := asked(before)) is not None:
                start = args.load or args.pretrained_checkpoint
                raise UserError(f"the checkpoint in {start} {why}")


def complete(plan: Any, args: argparse.Namespace) -> Any:
    """What the methods make of a checkpoint that is planned of another model's.

    Args:
        plan: by one that starts a run from it.
        args: Megatron's validated arguments.
    """
    for method in methods():
        plan = method.complete(plan, args)
    return plan


def _composed(runs: Sequence[Run]) -> Run:
    try:
        composed = Composed(runs)
        _ = composed.stages
    except CombinationError as error:
        raise UserError(f"{error}: use one of them") from None
    return composed
