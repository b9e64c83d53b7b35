"""Probes of order: the same for good, told apart by order alone, and asked through the harness."""

from collections import Counter
from pathlib import Path

import pytest
from answerers import Bag, Copier

from tst_megatron.evaluation.probes import ITEMS, PROBES
from tst_megatron.evaluation.results import hash_of

# So that scores of years ago are of these very items.
HASHES = {
    "probe_role_swap": "36c2d808a42f3ae4a9c9553094e33d27c2c27c0c260a433bcc70d2461705df39",
    "probe_digit_order": "e92188c90194f42e2bf18b90f44a2981e81c96760dccce4e866415593ca42593",
    "probe_copy_order": "f609997958e171979b7aea57624458d82d738e89e00d55cb8819a3d353753d56",
}


@pytest.mark.parametrize("name", PROBES)
def test_items_are_the_same_for_good(name: str) -> None:
    asked = [vars(one) for one in PROBES[name].questions]
    assert len(asked) == ITEMS
    assert hash_of(asked) == HASHES[name]


@pytest.mark.parametrize("name", PROBES)
def test_nothing_but_order_tells_choices_and_twins_apart(name: str) -> None:
    questions = PROBES[name].questions
    for one, twin in zip(questions[::2], questions[1::2], strict=True):
        assert one.choices == twin.choices
        assert one.choices[0] != one.choices[1]
        assert (one.gold, twin.gold) == (0, 1)
        assert one.context != twin.context
        for texts in (one.choices, (one.context, twin.context)):
            words = [Counter(text.lower().rstrip(".").replace(".", " .").split()) for text in texts]
            assert words[0] == words[1]
    contexts = [one.context for one in questions]
    assert len({*contexts}) == len(contexts)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    from tst_megatron.evaluation.tasks import load_tasks

    return load_tasks([*PROBES], None, Path(tmp_path_factory.mktemp("data")))


def test_who_copies_in_order_knows_and_who_knows_no_order_is_right_in_half(tasks) -> None:
    from tst_megatron.evaluation.harness import run_tasks

    of_copier = {one.name: one.scores["acc"] for one in run_tasks(tasks, Copier(), limit=20)}
    assert of_copier["probe_digit_order"].value == of_copier["probe_copy_order"].value == 1.0
    for one in run_tasks(tasks, Bag(), limit=100):
        score = one.scores["acc"]
        assert (score.value, score.chance, score.n) == (0.5, 0.5, 100), one.name
        assert score.higher_is_better
