"""Resume a mixture of experts with another expert-parallel size than 1, or 1 again.

The one idea: while experts are split over ranks Megatron keeps an optimizer of their own for them
(``ChainedOptimizer`` of two, megatron/core/optimizer/optimizer.py), and without expert parallelism
one for everything. The state of every parameter is saved under the parameter's name and finds its
way; the few entries that are saved as they are (parameter groups, steps) stand where the other
arrangement does not look. They are the same for both optimizers, so they are put there.
"""

import copy
from functools import wraps
from typing import Any

from megatron.core.optimizer.optimizer import ChainedOptimizer, param_group_identifier_keys

_OF_EXPERTS = "is_expert_parallel"
_load_state_dict = ChainedOptimizer.load_state_dict


def install() -> None:
    """Let every later resume of this process change between one optimizer and two."""
    ChainedOptimizer.load_state_dict = _rearranging


@wraps(_load_state_dict)
def _rearranging(self: ChainedOptimizer, state_dict: Any) -> None:
    _load_state_dict(
        self, rearranged(state_dict, [o.param_groups for o in self.chained_optimizers])
    )


def rearranged(state_dict: Any, param_groups: list[list[dict[str, Any]]]) -> Any:
    """A loaded optimizer state in the arrangement of the optimizers that are to take it.

    Args:
        state_dict: as Megatron loaded it: numbered entries of several optimizers, or one
            optimizer's own, or both where the checkpoint's arrangement is not this run's.
        param_groups: the groups of every optimizer of this run.
    """
    if not isinstance(state_dict, dict):
        return state_dict
    numbered = {key: value for key, value in state_dict.items() if isinstance(key, int)}
    single = {key: value for key, value in state_dict.items() if not isinstance(key, int)}
    if not numbered or not single:
        return state_dict
    if len(param_groups) == 1:
        return _taken_over(single, numbered[min(numbered)], param_groups[0])
    return {
        index: _taken_over(numbered.get(index, {}), single, groups)
        for index, groups in enumerate(param_groups)
    }


def _taken_over(
    mine: dict[str, Any], saved: dict[str, Any], groups: list[dict[str, Any]]
) -> dict[str, Any]:
    """One optimizer's state: its parameters' own, and the rest from the saved arrangement."""
    result = _completed(mine, copy.deepcopy(saved))
    # The distributed optimizer keeps its inner optimizer's entries one level down.
    inner = result.get("optimizer", result)
    found = saved.get("optimizer", saved)["param_groups"]
    # Its own lists of parameters, where the run's arrangement has them.
    own = mine.get("optimizer", mine).get("param_groups") or [{}] * len(groups)
    inner["param_groups"] = [
        _like(group, found) | {name: loaded[name] for name in ("params",) if name in loaded}
        for group, loaded in zip(groups, own, strict=True)
    ]
    return result


def _like(group: dict[str, Any], saved_groups: list[dict[str, Any]]) -> dict[str, Any]:
    """The saved group that a group is to go on as: of its settings, experts' or not."""

    def settings(of: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(of.get(key) for key in param_group_identifier_keys if key != _OF_EXPERTS)

    match = next((saved for saved in saved_groups if settings(saved) == settings(group)), None)
    if match is None:
        # Megatron's own error names what it looks for.
        return {}
    return copy.deepcopy(match) | {_OF_EXPERTS: group[_OF_EXPERTS]}


def _completed(mine: dict[Any, Any], other: dict[Any, Any]) -> dict[Any, Any]:
    """``mine``, with what only ``other`` has, at every depth."""
    result = dict(mine)
    for key, value in other.items():
        if key not in result:
            result[key] = value
        elif isinstance(value, dict) and isinstance(result[key], dict):
            result[key] = _completed(result[key], value)
    return result
