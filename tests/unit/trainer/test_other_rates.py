"""Whose rates a group of parameters has once a checkpoint is loaded."""

from typing import Any

import pytest

from tst_megatron.trainer.other_rates import groups_in, take_rates


def a_group(rate: float, wd_mult: float = 1.0, **more: Any) -> dict[str, Any]:
    return {"max_lr": rate, "min_lr": rate / 10, "wd_mult": wd_mult, "lr_mult": 1.0} | more


def test_a_group_takes_the_rates_of_its_like() -> None:
    saved = [a_group(1e-2), a_group(1e-2, 0.0), a_group(5e-2, is_decoupled_lr=True)]
    own = [a_group(2e-3, 0.0), a_group(2e-3), a_group(7e-3, is_decoupled_lr=True)]
    take_rates(saved, own)
    assert [group["max_lr"] for group in saved] == [2e-3, 2e-3, 7e-3]
    assert [group["min_lr"] for group in saved] == pytest.approx([2e-4, 2e-4, 7e-4])
    assert [group["wd_mult"] for group in saved] == [1.0, 0.0, 1.0]


def test_experts_may_have_been_with_the_others() -> None:
    saved = [a_group(1e-2, is_expert_parallel=False)]
    take_rates(saved, [a_group(2e-3, is_expert_parallel=flag) for flag in (False, True)])
    assert saved[0]["max_lr"] == 2e-3


def test_what_is_like_several_stays_as_it_is() -> None:
    """Such as matrices whose rate goes with their width: which is which, rates alone tell."""
    saved = [a_group(1e-2)]
    take_rates(saved, [a_group(2e-3), a_group(1e-3)])
    assert saved[0]["max_lr"] == 1e-2
    take_rates(saved, [])
    assert saved[0]["max_lr"] == 1e-2


def test_groups_are_found_in_every_arrangement() -> None:
    one, two = a_group(1.0), a_group(2.0)
    plain = {"state": {0: {"param_groups": "a name of a parameter"}}, "param_groups": [one, two]}
    assert list(groups_in(plain)) == [one, two]
    several = {0: {"optimizer": {"param_groups": [one]}}, 1: {"param_groups": [two]}}
    assert list(groups_in(several)) == [one, two]
    assert not list(groups_in([plain]))
