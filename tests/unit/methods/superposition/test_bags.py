import math

import pytest
import torch
from reference import SCHEMES, SIZES, filled_weights, scheme_weights

from tst_megatron.methods.superposition.bags import (
    BAG_WEIGHTS,
    EMPTY,
    bag_weights,
    fold,
    look_ahead,
    weights_of_filled,
)


def test_the_schemes_are_those_of_the_paper():
    assert set(BAG_WEIGHTS) == set(SCHEMES)


@pytest.mark.parametrize("bag_size", SIZES)
@pytest.mark.parametrize("name", BAG_WEIGHTS)
def test_weights_sum_to_one(name, bag_size):
    weights = bag_weights(name, bag_size)

    assert weights.shape == (bag_size,)
    assert weights.dtype == torch.float32
    assert weights.device.type == "cpu"
    assert math.isclose(math.fsum(weights.tolist()), 1.0, abs_tol=1e-6)
    assert (weights >= 0).all()


@pytest.mark.parametrize("bag_size", SIZES)
@pytest.mark.parametrize("name", BAG_WEIGHTS)
def test_weights_follow_their_formula(name, bag_size):
    # Rounded once from float64, so the same float32 numbers.
    torch.testing.assert_close(
        bag_weights(name, bag_size).double(), scheme_weights(name, bag_size), rtol=2**-23, atol=0
    )


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("uniform", [1 / 3, 1 / 3, 1 / 3]),
        ("power", [6 / 11, 3 / 11, 2 / 11]),
        ("exponential", [0.66524096, 0.24472847, 0.09003057]),
        ("first", [1.0, 0.0, 0.0]),
        # 4.98, 3.63 + 1.35 · 2^−1.25 and 3.63 + 1.35 · 3^−1.25 over their sum.
        ("mutual-information", [4.98 / 13.1495184, 4.1975974 / 13.1495184, 3.9719209 / 13.1495184]),
    ],
)
def test_weights_of_a_bag_of_three(name, weights):
    assert bag_weights(name, 3).tolist() == pytest.approx(weights, rel=1e-6)


@pytest.mark.parametrize("name", BAG_WEIGHTS)
def test_a_bag_of_one_has_weight_one(name):
    assert bag_weights(name, 1).tolist() == [1.0]


@pytest.mark.parametrize("name", ["power", "exponential", "mutual-information"])
def test_weights_fall_with_distance(name):
    assert (bag_weights(name, 16).diff() < 0).all()


@pytest.mark.parametrize("name", ["powerlaw", "Uniform", ""])
def test_an_unknown_name_is_named(name):
    with pytest.raises(ValueError, match=f"{name!r}.*uniform, power, exponential, first"):
        bag_weights(name, 2)


@pytest.mark.parametrize("bag_size", [0, -3])
def test_a_bag_size_below_one_is_named(bag_size):
    with pytest.raises(ValueError, match=f"bag size {bag_size} "):
        bag_weights("uniform", bag_size)


def test_fold_cuts_at_multiples_of_the_bag_size():
    text = torch.arange(24).view(2, 12)

    bags = fold(text, 3)

    assert bags.shape == (2, 4, 3)
    assert bags[1, 2].tolist() == [18, 19, 20]
    assert bags.data_ptr() == text.data_ptr()


@pytest.mark.parametrize("bag_size", [1, 2, 3, 4, 6, 12])
def test_fold_keeps_every_token_in_order(bag_size):
    text = torch.arange(12)
    bags = fold(text, bag_size)
    assert bags.shape == (12 // bag_size, bag_size)
    assert torch.equal(bags.flatten(), text)


def test_fold_names_a_length_that_does_not_fit():
    with pytest.raises(ValueError, match="10 tokens cannot be cut into bags of 4"):
        fold(torch.arange(10), 4)


@pytest.mark.parametrize("length", [1, 2, 5, 20])
@pytest.mark.parametrize("bag_size", SIZES)
def test_look_ahead_reads_the_next_tokens(bag_size, length, generator):
    labels = torch.randint(0, 100, (3, length), generator=generator)

    bags = look_ahead(labels, bag_size)

    slow = [
        [[row[i + j] if i + j < length else EMPTY for j in range(bag_size)] for i in range(length)]
        for row in labels.tolist()
    ]
    assert bags.tolist() == slow
    assert bags.dtype == torch.int64
    assert bags.is_contiguous()


@pytest.mark.parametrize("bag_size", SIZES)
@pytest.mark.parametrize("name", BAG_WEIGHTS)
def test_weights_of_filled_sum_to_one_over_the_filled(name, bag_size, generator):
    weights = bag_weights(name, bag_size)
    targets = torch.randint(-2, 6, (5, 4, bag_size), generator=generator).clamp(min=EMPTY)
    targets[0, 0] = EMPTY
    targets[0, 1] = 0

    filled = weights_of_filled(weights, targets)

    assert filled.dtype == torch.float32
    torch.testing.assert_close(
        filled.double(), filled_weights(weights.double(), targets), rtol=1e-6, atol=0
    )
    assert (filled[targets == EMPTY] == 0).all()
    has_weight = ((targets != EMPTY) & (weights > 0)).any(-1)
    torch.testing.assert_close(filled.sum(-1), has_weight.float())


@pytest.mark.parametrize("bag_size", SIZES)
def test_weights_of_a_full_bag_are_left_alone(bag_size):
    weights = bag_weights("power", bag_size)
    filled = weights_of_filled(weights, torch.zeros(2, bag_size, dtype=torch.int64))
    torch.testing.assert_close(filled, weights.expand(2, -1), rtol=2**-22, atol=0)


def test_weights_of_filled_where_the_only_weight_is_on_an_empty_place():
    filled = weights_of_filled(bag_weights("first", 3), torch.tensor([[EMPTY, 4, 5]]))
    assert filled.tolist() == [[0.0, 0.0, 0.0]]
