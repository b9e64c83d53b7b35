"""Lists of layers, against those that papers print."""

import pytest

from tst_megatron.errors import UserError
from tst_megatron.methods.growth.layers import layer_map


@pytest.mark.parametrize(
    ("operator", "small", "large", "sources"),
    [
        # arXiv 2405.15319, scripts: stacking_list of 6 -> 24.
        ("stack", 6, 24, [*range(6)] * 4),
        ("interleave", 2, 6, [0, 0, 0, 1, 1, 1]),
        # The middle block of two of six layers, once more.
        ("middle", 6, 8, [0, 1, 2, 3, 2, 3, 4, 5]),
        ("middle", 6, 24, [0, 1, 2, 3, *[1, 2, 3] * 6, 4, 5]),
        ("middle", 1, 3, [0, 0, 0]),
        ("middle", 2, 8, [0, *[0] * 6, 1]),
        # arXiv 2312.15166: 32 -> 48.
        ("0-23,8-31", 32, 48, [*range(24), *range(8, 32)]),
        ("3,1", 4, 2, [3, 1]),
        (" 0 , 0-1", 2, 3, [0, 0, 1]),
    ],
)
def test_lists(operator, small, large, sources):
    found = layer_map(operator, small, large)
    assert list(found.sources) == sources
    assert not found.silent
    assert all(found.sources[first] == found.sources[i] for i, first in enumerate(found.first))


def test_what_is_silent_copies_all_the_same():
    found = layer_map("zero", 2, 6)
    assert found.sources == (0, 1, 0, 1, 0, 1)
    assert found.silent == {2, 3, 4, 5}
    assert found.first == (0, 1, 0, 1, 0, 1)


@pytest.mark.parametrize(
    ("operator", "small", "large", "said"),
    [
        ("stack", 6, 16, r"16 layers are no multiple of the checkpoint's 6: .* 0-5,0-3"),
        ("zero", 2, 5, r"no multiple .* 0-1,0"),
        ("stack", 4, 4, "4 layers are not more than the 4 of the checkpoint"),
        ("middle", 4, 2, "not more than the 4"),
        ("twice", 2, 4, "neither one of stack, interleave, middle, zero nor a list"),
        ("0-", 2, 4, "neither one of"),
        ("", 2, 4, "neither one of"),
        ("1-0", 2, 4, "1-0 runs backwards"),
        ("0-2", 2, 3, "names layer 2, and the checkpoint's layers are 0 to 1"),
        ("0,1,0", 2, 4, "lists 3 layers, and the model has --num-layers 4"),
    ],
)
def test_what_does_not_fit(operator, small, large, said):
    with pytest.raises(UserError, match=said):
        layer_map(operator, small, large)
