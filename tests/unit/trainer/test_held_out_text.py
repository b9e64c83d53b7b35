"""How many bytes of text a validation's loss is of, from the corpora's manifests."""

import argparse
from pathlib import Path
from typing import Any

import pytest
from corpora import random_documents, write_corpus, write_its_manifest

from tst_megatron.corpora.manifest import manifest_path
from tst_megatron.corpora.split_text import SplitText
from tst_megatron.trainer.held_out_text import amount_evaluated, text_held_out


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three: of 4 bytes a token, of 2, and one of which only ids were read."""
    root = tmp_path_factory.mktemp("corpora")
    prefixes = [root / name for name in ("four", "two", "ids")]
    for prefix, mean in zip(prefixes, (4, 2, 0), strict=True):
        documents = random_documents(5)
        write_corpus(prefix, documents)
        manifest = write_its_manifest(prefix)
        write_its_manifest(prefix, text_bytes=mean * manifest.tokens)
    return prefixes


def measured(*data_path: Any, **changes: Any) -> dict[str, int | None]:
    return amount_evaluated(arguments(*data_path, **changes))


def arguments(*data_path: Any, **changes: Any) -> argparse.Namespace:
    flags = {
        **dict.fromkeys(("data_args_path", "per_split_data_args_path", "blend")),
        **dict.fromkeys(f"{split}_data_path" for split in ("train", "valid", "test")),
        "data_path": [str(word) for word in data_path],
        "split": "90,10,0",
        **dict.fromkeys(("sft", "mock_data", "fim_data", "full_validation"), False),
        **{"eval_iters": 3, "eval_global_batch_size": 2, "seq_length": 10},
    }
    return argparse.Namespace(**flags | changes)


def test_one_corpus(corpora: list[Path]) -> None:
    assert measured(corpora[0]) == {"tokens": 60, "bytes": 240}


def test_several_sets_are_all_their_batches(corpora: list[Path]) -> None:
    own = {"data_path": None, "train_data_path": [str(corpora[0])], "test_data_path": None}
    sets = [str(one) for one in corpora[:2]]
    found = measured(**own, valid_data_path=sets, eval_iters=[1, 2])
    assert found["tokens"] == 60


def test_a_blend_in_its_shares(corpora: list[Path]) -> None:
    assert measured(0.75, corpora[0], 0.25, corpora[1]) == {"tokens": 60, "bytes": 210}


def test_the_validation_splits_own(corpora: list[Path]) -> None:
    own = {"data_path": None, "train_data_path": [str(corpora[0])]}
    found = measured(**own, valid_data_path=[str(corpora[1])], test_data_path=None)
    assert found == {"tokens": 60, "bytes": 120}


def test_where_no_text_was_counted(corpora: list[Path], tmp_path: Path) -> None:
    unknown = {"tokens": 60, "bytes": None}
    assert measured(corpora[2]) == unknown
    assert measured(corpora[0], corpora[2]) == unknown
    assert measured(tmp_path / "without a manifest") == unknown
    manifest_path(tmp_path / "broken").write_text("{}")
    assert measured(tmp_path / "broken") == unknown
    assert measured(corpora[0], mock_data=True) == unknown


def test_full_validations_go_through_sequences_one_by_one(corpora: list[Path]) -> None:
    """Three steps of 8 samples in micro-batches of 4, which Megatron's sampler makes of one."""
    full = {"full_validation": True, "eval_global_batch_size": 8, "eval_micro_batch_size": 4}
    assert measured(corpora[0], **full) == {"tokens": 60, "bytes": 240}
    text = SplitText("0" * 64, 2, 100, 250, 1)
    found = amount_evaluated(arguments(corpora[0], **full), text)
    assert found == {"tokens": 60, "bytes": 150}


def test_the_header_tells_the_text_where_it_is_known(corpora: list[Path], tmp_path: Path) -> None:
    found = text_held_out(arguments(corpora[0]))
    assert found is not None
    assert (found.documents, found.bytes, found.corpora) == (1, None, 1)
    assert text_held_out(arguments(corpora[2])) is None
    assert text_held_out(arguments(corpora[0], mock_data=True)) is None
    # Ids alone are no text to count, and what is wrong with a manifest ends no run.
    assert text_held_out(arguments(corpora[0], full_validation=True)) == found
    manifest_path(tmp_path / "broken").write_text("{}")
    assert text_held_out(arguments(tmp_path / "broken")) is None
