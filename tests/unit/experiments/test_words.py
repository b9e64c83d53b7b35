"""Flags as words: which go to whom, and what a shorter run has."""

from tst_megatron.experiments.words import parted, shortened


def test_flags_go_with_their_values() -> None:
    words = ("--lr", "1e-3", "--own", "a", "b", "--own-too=1", "--swiglu")
    shared, own = parted(words, lambda name: name.startswith("own"))
    assert shared == ("--lr", "1e-3", "--swiglu")
    assert own == ("--own", "a", "b", "--own-too=1")


def test_a_shorter_run_has_its_share_of_every_part_that_is_given() -> None:
    values = {
        "train-iters": 100,
        "lr-warmup-iters": 10,
        "eval-interval": "1",
        "lr-decay-iters": None,
    }
    expected = ("--train-iters=25", "--lr-warmup-iters=2", "--eval-interval=1")
    assert shortened(values, 25, 100) == expected
    assert shortened(values, 100, 100) == ()
