from typing import Any

import pytest

from tst_megatron.runs.flag_roles import Role, begun_otherwise


def test_a_name_that_ends_with_a_dash_stands_for_all_that_begin_so():
    assert Role.CIRCUMSTANCES.has("log_interval")
    assert Role.CIRCUMSTANCES.has("version of torch")
    assert not Role.CIRCUMSTANCES.has("seed_of_something")
    assert not Role.LENGTH.has("train_iters_more")


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        ({"seed": 1}, {"seed": 2}, "seed"),
        ({"seed": 1, "flags": {"lr": 1}}, {"flags": {"seed": 1, "lr": 2}}, "lr"),
        ({"flags": {"num_experts": None}}, {"flags": {"num_experts": 8}}, "num_experts"),
        ({"flags": {"data_path": ("a",)}}, {"flags": {"data_path": ["a"]}}, None),
        ({"flags": {"lr": 1}}, {"flags": {}}, None),
        ({"flags": {"own_size": 1}}, {"flags": {"own_size": 2}}, "own_size"),
        ({"flags": {"own_size": 1}}, {"flags": {}}, None),
        ({"flags": {"other_size": 1}}, {"flags": {"other_size": 2}}, None),
    ],
)
def test_why_two_starts_are_not_of_one_run(one: Any, other: Any, found: str | None):
    assert begun_otherwise(one, other, Role.BEGINNING, ["own_"]) == found
    assert begun_otherwise(other, one, Role.BEGINNING, ["own_"]) == found


def test_a_start_that_goes_on_may_have_another_length_and_rate():
    one, other = {"flags": {"lr": 1, "train_iters": 9}}, {"flags": {"lr": 2, "train_iters": 99}}
    assert begun_otherwise(one, other, Role.EVERY_START) is None
