"""The methods that there are, in the order in which they are applied; nobody else names one.

Adding a method is a folder of ``methods/`` and a line here (docs/architecture.md).
"""

import argparse
from collections.abc import Sequence
from functools import cache
from importlib import import_module

from tst_megatron.errors import UserError
from tst_megatron.methods.composition import Composed
from tst_megatron.methods.method import Method, Ordinary, Run
from tst_megatron.stock import flags
from tst_megatron.stock.batch_sizes import BatchSizes, train_steps

_MODULES = ["tst_megatron.methods.superposition.method"]
"""Each has a ``METHOD``. What a method needs of Megatron it imports when it is asked for it."""


@cache
def _method(module: str) -> Method:
    method: Method = import_module(module).METHOD
    return method


def methods() -> tuple[Method, ...]:
    """All methods."""
    return tuple(_method(module) for module in _MODULES)


def method_named(name: str) -> Method | None:
    """The method of a name, as ledgers have it; None if there is none, or not any more."""
    return next((method for method in methods() if method.name == name), None)


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


def check_flags(args: argparse.Namespace, on_gpu: bool = True) -> None:
    """Check our flags by themselves and beside Megatron's.

    Args:
        args: all of Megatron's, before or after its validation.
        on_gpu: whether the run will have GPUs.

    Raises:
        UserError: a value is out of range, or flags contradict one another.
    """
    check_own_flags(args)
    flags.check_beside(args)
    for method in methods():
        method.check_beside(args, on_gpu)


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
        return Ordinary(BatchSizes.from_args(args).samples_of_steps, train_steps(args))
    if len(runs) == 1:
        return runs[0]
    for run in runs:
        run.check_with([other for other in runs if other is not run])
    return _composed(runs)


def _composed(runs: Sequence[Run]) -> Run:
    try:
        composed = Composed(runs)
        _ = composed.stages
    except ValueError as error:
        raise UserError(f"{error}: use one of them") from None
    return composed
