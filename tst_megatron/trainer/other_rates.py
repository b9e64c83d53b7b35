"""Go on from a checkpoint at other learning rates, or at the checkpoint's in place of the run's.

The one idea: Megatron keeps rates in the scheduler and in every group of parameters, has a flag
for whose rates the scheduler takes, and then looks for each group by its rates among others, which
ends in a ValueError where they differ (``param_group_identifier_keys`` in
megatron/core/optimizer/optimizer.py). So what the flag says is said of groups that are alike but
for their rates, before they are looked for.
"""

import argparse
from collections.abc import Iterator, Sequence
from functools import wraps
from typing import Any

from megatron.core.optimizer.optimizer import ChainedOptimizer, param_group_identifier_keys

_RATES = ("max_lr", "min_lr")
# Experts may have been with the others before, or are now (`expert_optimizers`).
_ALIKE = tuple(
    key for key in param_group_identifier_keys if key not in (*_RATES, "is_expert_parallel")
)

Group = dict[str, Any]
"""Of parameters, as an optimizer has it."""


def install(args: argparse.Namespace) -> None:
    """Let the resume of this process take the rates that its flags choose, if they choose.

    Args:
        args: Megatron's validated arguments.
    """
    if not (args.override_opt_param_scheduler or args.use_checkpoint_opt_param_scheduler):
        return
    load = ChainedOptimizer.load_state_dict

    @wraps(load)
    def load_at_rates(self: ChainedOptimizer, state_dict: Any) -> None:
        ours = [group for one in self.chained_optimizers for group in one.param_groups]
        theirs = list(groups_in(state_dict))
        if args.override_opt_param_scheduler:
            take_rates(theirs, ours)
        else:
            take_rates(ours, theirs)
        load(self, state_dict)

    ChainedOptimizer.load_state_dict = load_at_rates


def take_rates(groups: Sequence[Group], others: Sequence[Group]) -> None:
    """Give every group the rates of those that are like it.

    One that is like several of different rates is left as it is, as nothing tells which it is.

    Args:
        groups: to be changed.
        others: whose rates they take.
    """
    for group in groups:
        like = [other for other in others if _settings(other) == _settings(group)]
        rates = {tuple(other.get(name) for name in _RATES) for other in like}
        if len(rates) == 1:
            group.update(zip(_RATES, *rates, strict=True))


def groups_in(state: Any) -> Iterator[Group]:
    """Groups in an optimizer's state, however deep: of one optimizer or several."""
    if not isinstance(state, dict):
        return
    for key, value in state.items():
        if key == "param_groups":
            yield from value
        elif key != "state":
            yield from groups_in(value)


def _settings(group: Group) -> tuple[Any, ...]:
    # As NeMo calls some of them, which Megatron takes likewise.
    return tuple(group.get(key, group.get(f"pre_{key}")) for key in _ALIKE)
