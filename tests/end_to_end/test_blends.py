"""Blends through the real trainer: a file of ours, the same in Megatron's flags, and a refusal."""

import os
from pathlib import Path

import numpy as np
import pytest
from ledgers import bag_size
from megatron.core.datasets.indexed_dataset import IndexedDataset
from trainer import TINY, Job, run, run_all

from tst_megatron.corpora.index_file import write_index

BAGS = ("--tst-schedule=4:0.3,2:0.2",)


@pytest.fixture(scope="module")
def parts(corpus, tmp_path_factory) -> Path:
    """The corpus in three: its first documents, its next, and the last to validate on."""
    folder = tmp_path_factory.mktemp("parts")
    whole = IndexedDataset(str(corpus.prefix))
    # Cut into short documents, so that every stage has some of every part.
    pieces = np.array_split(np.concatenate([whole.get(i) for i in range(len(whole))]), 300)
    for name, own in (("one", pieces[:150]), ("two", pieces[150:250]), ("held-out", pieces[250:])):
        np.concatenate(own).tofile(f"{folder / name}.bin")
        lengths = np.array([len(piece) for piece in own], dtype=np.int32)
        with (folder / f"{name}.idx").open("wb") as file:
            write_index(
                file.write, np.dtype(whole.index.dtype), len(own), lambda found=lengths: [found]
            )
    return folder


def flags_without_data(corpus, tmp_path: Path) -> tuple[str, ...]:
    return (*TINY, f"--tokenizer-model={corpus.tokenizer}", f"--data-cache-path={tmp_path}/cache")


def test_a_blend_file_trains_as_megatrons_flags(corpus, parts: Path, tmp_path: Path) -> None:
    (parts / "blend.yaml").write_text(
        "train:\n- {path: one, weight: 3}\n- {path: two, weight: 1, epochs: 2}\n"
        "valid:\n- path: held-out\n"
    )
    usual = (*flags_without_data(corpus, tmp_path), *BAGS)
    ours, megatrons = run_all(
        [
            Job(tmp_path / "ours", (*usual, f"--blend={parts}/blend.yaml")),
            Job(
                tmp_path / "megatrons",
                (
                    *(*usual, "--train-data-path", "3", f"{parts}/one", "1", f"{parts}/two"),
                    *("--valid-data-path", f"{parts}/held-out"),
                ),
            ),
        ]
    )
    assert [bag_size(line) for line in ours.ledger.steps] == [4] * 3 + [2] * 2 + [1] * 5
    assert ours.losses == megatrons.losses
    # Both kept their order of samples in one folder; a job that was killed there has cut it.
    files = list((tmp_path / "cache").glob("*.npy"))
    for path in files:
        os.truncate(path, path.stat().st_size // 2)
    again = run(Job(tmp_path / "again", (*usual, f"--blend={parts}/blend.yaml")))
    assert again.losses == ours.losses
    assert "is missing or cut short" in again.output
    assert sorted((tmp_path / "cache").glob("*.npy*")) == sorted(files)
    losses = [run.ledger.validations[-1]["next_token_loss"] for run in (ours, megatrons)]
    assert losses[0] == losses[1]


def test_ranks_that_leave_the_check_to_another_do_not_wait_for_it(
    corpus, parts: Path, tmp_path: Path
) -> None:
    flags = (
        *(*flags_without_data(corpus, tmp_path), *BAGS, "--train-iters=20000"),
        *("--data-path", "3", f"{parts}/one", "1", f"{parts}/two", "--split=95,5,0"),
    )
    refused = run(Job(tmp_path / "two-ranks", flags, num_ranks=2), check=False)
    assert refused.code == 2
    (sentence,) = (
        line for line in refused.output.splitlines() if line.startswith("tst-megatron: error")
    )
    assert f"the corpus {parts}/" in sentence
    assert "of 20,000 steps fit" in sentence
