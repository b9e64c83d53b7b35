"""The order of samples is Megatron's, its corpus's own, and read where it is whole alone."""

import errno
import logging
import multiprocessing
import os
import pickle
from collections.abc import Callable
from copy import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from counted_corpora import write_corpus
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.utils import Split

from tst_megatron.errors import UserError
from tst_megatron.methods.superposition.phased_dataset import build_phased_dataset
from tst_megatron.methods.superposition.schedule import BagSchedule
from tst_megatron.stock import caches
from tst_megatron.stock.caches import CorpusDataset, DatasetBuilder
from tst_megatron.stock.datasets import data_of_split

FORK = multiprocessing.get_context("fork")
SAMPLES = 90
FILES = ("document_index", "sample_index", "shuffle_index")


def everywhere() -> bool:
    return True


@pytest.fixture
def corpora(tmp_path: Path) -> list[str]:
    """Two, of which no token is the other's."""
    rng = np.random.default_rng(11)
    return [
        write_corpus(tmp_path / name, rng.integers(1, 40, size=60), start)
        for name, start in (("a", 0), ("b", 100_000))
    ]


def config_of(blend: list[str], weights: Any = None, **more: Any) -> GPTDatasetConfig:
    tokenizer = SimpleNamespace(
        vocab_size=200_000, eod=-5, pad=-7, unique_identifiers={}, special_tokens_dict={}
    )
    flags = {"reset_position_ids": False, "reset_attention_mask": False, "eod_mask_loss": False}
    usual = {"blend": (blend, weights), "split": "80,20,0", "create_attention_mask": False}
    return GPTDatasetConfig(
        random_seed=1234,
        sequence_length=8,
        tokenizer=tokenizer,
        **(flags | usual | more),
    )


def samples(dataset: Any) -> list[list[int]]:
    return [dataset[index]["tokens"].tolist() for index in range(len(dataset))]


def training(config: GPTDatasetConfig) -> list[list[int]]:
    return samples(data_of_split(CorpusDataset, config, Split.train, SAMPLES, everywhere))


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What a user of Megatron's default level is told."""
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


def in_cache(folder: Path, affix: str) -> Path:
    (path,) = folder.glob(f"*{affix}*.npy")
    return path


@pytest.mark.parametrize("weights", [None, [0.3, 0.7]], ids=["by size", "by weight"])
@pytest.mark.parametrize("number", [1, 2], ids=["corpus", "blend"])
@pytest.mark.parametrize("late", [False, True], ids=["mapped", "mapped late"])
def test_samples_are_megatrons(
    corpora: list[str], tmp_path: Path, weights: Any, number: int, late: bool
) -> None:
    weights = None if weights is None else weights[:number]
    sizes = [SAMPLES, 20, 0]

    def built(builder: Any, kind: Any, folder: str, **more: Any) -> list[list[list[int]]]:
        config = config_of(corpora[:number], weights, path_to_cache=str(tmp_path / folder), **more)
        made = builder(kind, sizes, everywhere, config).build()
        return [samples(one) for one in made if one is not None]

    stock = built(BlendedMegatronDatasetBuilder, GPTDataset, "stock")
    for _ in ("laid out", "from the cache"):
        ours = built(DatasetBuilder, CorpusDataset, "ours", defer_npy_index_mmap=late)
        assert ours == stock


def test_a_corpus_indexed_anew_is_read_anew(corpora: list[str], tmp_path: Path) -> None:
    schedule = BagSchedule.from_shares([(4, 0.4)], 8, lambda steps: steps * 4)

    def read(folder: str) -> list[Any]:
        config = config_of(corpora, [0.3, 0.7], path_to_cache=str(tmp_path / folder))
        phased = build_phased_dataset(schedule, config, everywhere)
        bags = [{name: value.tolist() for name, value in phased[i].items()} for i in range(32)]
        return [training(config), training(config_of(corpora[:1], path_to_cache=None)), bags]

    before = read("cache")
    # As many documents and tokens as before, in another order.
    lengths = np.random.default_rng(11).integers(1, 40, size=60)
    write_corpus(Path(corpora[0]), lengths[::-1])
    after = read("cache")
    assert after == read("fresh")
    assert all(one != other for one, other in zip(before, after, strict=True))
    # The same again has its order already.
    files = sorted((tmp_path / "cache").iterdir())
    write_corpus(Path(corpora[0]), lengths[::-1])
    assert read("cache") == after
    assert sorted((tmp_path / "cache").iterdir()) == files


class Bomb:
    """What says that it was unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("unpickled",)


def pickled(path: Path) -> None:
    np.save(path, np.array([Bomb()], dtype=object), allow_pickle=True)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "in its header": lambda path: os.truncate(path, 40),
    "empty": lambda path: os.truncate(path, 0),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "gone": lambda path: path.unlink(),
    "garbage": lambda path: path.write_bytes(b"garbage" + path.read_bytes()[7:]),
    "a zip file": lambda path: path.write_bytes(b"PK\x03\x04" + path.read_bytes()[4:]),
    "a bare pickle": lambda path: path.write_bytes(pickle.dumps(Bomb())),
    "pickled objects": pickled,
    "another array": lambda path: np.save(path, np.zeros((3, 3, 3), dtype=np.int32)),
    "floats": lambda path: np.save(path, np.load(path).astype(np.float32)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_not_whole_is_laid_out_anew(
    corpora: list[str], tmp_path: Path, monkeypatch, caplog, damage: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "cache"
    config = config_of(corpora, [0.3, 0.7], path_to_cache=str(folder))
    right, files = training(config), {path: path.read_bytes() for path in folder.glob("*.npy")}
    assert len(files) == 2 * len(FILES) + 2
    assert not said(caplog)
    for path, whole in files.items():
        DAMAGES[damage](path)
        caplog.clear()
        assert training(config) == right
        (line,) = said(caplog)
        assert line.startswith(f"{path} is missing or cut short")
        assert path.read_bytes() == whole
    assert not Path("unpickled").exists()


def test_a_garbled_header_is_never_taken_for_another_array(
    corpora: list[str], tmp_path: Path
) -> None:
    config = config_of(corpora[:1], path_to_cache=str(tmp_path / "cache"))
    training(config)
    path = in_cache(tmp_path / "cache", "sample_index")
    whole, right = path.read_bytes(), np.load(path)
    rng = np.random.default_rng()
    for _ in range(300):
        garbled = bytearray(whole)
        for place in rng.integers(0, 128, size=rng.integers(1, 4)):
            garbled[place] = rng.integers(0, 256)
        path.write_bytes(garbled)
        read = caches._whole_array(path, 2)
        assert read is None or (read.size, read.dtype.itemsize) == (right.size, right.itemsize)


def starts(
    number: int, work: Callable[[int], Any], before: Callable[[], None] = lambda: None
) -> list[Any]:
    """What several processes that begin at the same moment return; None for one that was killed."""
    gate = FORK.Barrier(number)
    pipes = [FORK.Pipe(duplex=False) for _ in range(number)]

    def start(rank: int) -> None:
        before()
        gate.wait(60)
        pipes[rank][1].send(work(rank))

    processes = [FORK.Process(target=start, args=(rank,)) for rank in range(number)]
    for process in processes:
        process.start()
    for _, sending in pipes:
        sending.close()
    found = []
    for receiving, _ in pipes:
        try:
            found.append(receiving.recv())
        except EOFError:
            found.append(None)
    for process in processes:
        process.join(60)
    return found


def test_several_starts_at_once_share_one_cache(corpora: list[str], tmp_path: Path) -> None:
    right = training(config_of(corpora, [0.3, 0.7], path_to_cache=str(tmp_path / "alone")))
    folder = tmp_path / "cache"
    config = config_of(corpora, [0.3, 0.7], path_to_cache=str(folder))
    for _ in range(3):
        assert starts(4, lambda rank: training(config)) == [right] * 4
        assert not list(folder.glob("*.partial"))
        for path in folder.glob("*sample_index.npy"):
            os.truncate(path, path.stat().st_size // 2)


def test_a_start_killed_as_it_writes_leaves_nothing_by_name(
    corpora: list[str], tmp_path: Path, caplog
) -> None:
    config = config_of(corpora[:1], path_to_cache=str(tmp_path / "cache"))
    right = training(config_of(corpora[:1], path_to_cache=str(tmp_path / "alone")))

    def dies() -> None:
        write = np.save

        def save(file: Any, array: Any, allow_pickle: bool) -> None:
            write(file, array[: len(array) // 2], allow_pickle=allow_pickle)
            if array.ndim == 2:
                file.flush()
                os._exit(9)

        np.save = save

    assert starts(1, lambda rank: training(config), before=dies) == [None]
    left = list((tmp_path / "cache").iterdir())
    assert left
    assert all(path.name.endswith(".partial") for path in left)
    assert training(config) == right
    assert not said(caplog), "nothing was there by name"
    # They may be of another host, which is writing still.
    assert sorted((tmp_path / "cache").glob("*.partial")) == sorted(left)
    for path in left:
        os.utime(path, (0, 0))
    for path in set((tmp_path / "cache").iterdir()) - set(left):
        path.unlink()
    assert training(config) == right
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_what_is_whole_is_never_replaced(corpora: list[str], tmp_path: Path, monkeypatch) -> None:
    """A client of NFS that has it mapped would lose it."""
    folder = tmp_path / "cache"
    config = config_of(corpora[:1], path_to_cache=str(folder))
    right = training(config)
    in_cache(folder, "shuffle_index").unlink()
    before = {path: path.stat().st_ino for path in folder.iterdir()}
    assert training(config) == right
    assert {path: path.stat().st_ino for path in before} == before

    # Nor where another start puts it while this one writes.
    in_cache(folder, "shuffle_index").unlink()
    after = {}

    def save(file: Any, array: Any, allow_pickle: bool) -> None:
        monkeypatch.undo()
        assert training(config) == right
        after.update({path: path.stat().st_ino for path in folder.glob("*.npy")})
        np.save(file, array, allow_pickle=allow_pickle)

    monkeypatch.setattr(np, "save", save)
    assert training(config) == right
    assert len(after) == len(FILES)
    assert {path: path.stat().st_ino for path in folder.glob("*.npy")} == after


@pytest.mark.parametrize("is_there", [True, False])
def test_a_write_that_fails_where_another_has_written(
    corpora: list[str], tmp_path: Path, monkeypatch, is_there: bool
) -> None:
    config = config_of(corpora[:1], path_to_cache=str(tmp_path / "cache"))
    right = training(config_of(corpora[:1], path_to_cache=str(tmp_path / "alone")))

    def save(file: Any, array: Any, allow_pickle: bool) -> None:
        monkeypatch.undo()
        if is_there:
            assert training(config) == right
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(np, "save", save)
    if is_there:
        assert training(config) == right
        return
    with pytest.raises(UserError, match=r"cannot be kept in .*: Stale file handle"):
        training(config)


def test_ranks_that_do_not_see_the_cache_of_rank_0_have_the_same_samples(
    corpora: list[str], tmp_path: Path
) -> None:
    """As on nodes whose folders are their own, and where a file was cut for one of them alone."""
    right = training(config_of(corpora, [0.3, 0.7], path_to_cache=str(tmp_path / "alone")))
    store = f"file://{tmp_path}/store"

    def rank_of_two(rank: int) -> list[list[int]]:
        torch.distributed.init_process_group("gloo", init_method=store, world_size=2, rank=rank)
        own = config_of(corpora, [0.3, 0.7], path_to_cache=str(tmp_path / f"node{rank}"))
        found = training(own)
        torch.distributed.destroy_process_group()
        return found

    assert starts(2, rank_of_two) == [right, right]


def test_orders_that_must_be_there_and_are_not(corpora: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    late = config_of(corpora[:1], path_to_cache=str(folder), defer_npy_index_mmap=True)
    dataset = data_of_split(CorpusDataset, late, Split.train, SAMPLES, everywhere)
    os.truncate(in_cache(folder, "shuffle_index"), 10)
    with pytest.raises(UserError, match=f"the order of samples in {folder} has gone"):
        dataset[0]
    # With --dataloader-fast-cache-load Megatron tells no data set its documents.
    fast = copy(late)
    fast.fast_cache_load = True
    with pytest.raises(UserError, match=r"not whole in .*: start once without it"):
        data_of_split(CorpusDataset, fast, Split.train, SAMPLES, everywhere)


def test_a_folder_that_cannot_be_written_is_named(corpora: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config = config_of(corpora[:1], path_to_cache=str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match=r"cannot be kept in .*file/cache: .*--data-cache-path"):
        training(config)
