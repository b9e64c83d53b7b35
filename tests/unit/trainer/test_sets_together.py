"""Several validation sets are one of all their text, each token once."""

import math

import pytest

from tst_megatron.methods.events import ValidationSet
from tst_megatron.trainer.validation_sets import text_together, together


def measured(name: str, batches: int, loss: float, error: float, **text: int) -> ValidationSet:
    return ValidationSet(name, batches, {"lm loss": loss}, {"lm loss": error}, text)


def test_each_token_counts_once() -> None:
    # 30 tokens at 2.0 and 10 at 4.0 nats, in as many batches.
    sets = [
        measured("a", 5, 2.0, 0.3, tokens=30, bytes=90),
        measured("b", 5, 4.0, 0.4, tokens=10, bytes=20),
    ]
    losses, errors = together(sets)
    assert losses == {"lm loss": pytest.approx(100 / 40)}
    assert errors == {"lm loss": pytest.approx(math.sqrt((0.75 * 0.3) ** 2 + (0.25 * 0.4) ** 2))}
    assert text_together(sets) == {"tokens": 40, "bytes": 110}


def test_without_counts_batches_stand_for_tokens() -> None:
    sets = [measured("a", 3, 2.0, 0.3), measured("b", 1, 4.0, 0.4, tokens=10, bytes=20)]
    assert together(sets)[0] == {"lm loss": pytest.approx(2.5)}
    assert text_together(sets) == {}


def test_what_one_lacks_is_of_none_together() -> None:
    sets = [measured("a", 1, 2.0, 0.3), measured("b", 1, 4.0, 0.4)]
    sets[0].losses["bag loss"] = 3.0
    del sets[1].stderrs["lm loss"]
    assert together(sets) == ({"lm loss": pytest.approx(3.0)}, {})
    # On a rank that has no losses there are none.
    assert together([ValidationSet("a", 1, {}, {}), ValidationSet("b", 1, {}, {})]) == ({}, {})
