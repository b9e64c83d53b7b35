"""Checkpoints that torch wrote, and what is found where something of them is missing."""

import io
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from megatron.core.dist_checkpointing import core, serialization
from megatron.core.dist_checkpointing.mapping import ShardedObject
from megatron.core.dist_checkpointing.strategies.common import COMMON_STATE_FNAME
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import filesystem

from tst_megatron.checkpoints import wholeness
from tst_megatron.checkpoints.wholeness import CONFIG, METADATA, fault_of, read_metadata

DATA = "__0_0.distcp"
COMMON_KEY = ShardedObject("common_state", None, (1,), (0,)).unique_key


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """As Megatron's ``torch_dist``: tensors, the common state among them, and the config."""
    folder = tmp_path / "iter_0000010"
    state = {"weight": torch.ones(100), COMMON_KEY: io.BytesIO(b"of no tensor")}
    dcp.save(state, checkpoint_id=folder, no_dist=True)
    core.save_config(core.CheckpointingConfig("torch_dist"), str(folder))
    return folder


def cut(file: Path, to: int) -> None:
    file.write_bytes(file.read_bytes()[:to])


def test_names_are_megatrons() -> None:
    assert (core.CONFIG_FNAME, filesystem._metadata_fn) == (CONFIG, METADATA)
    assert wholeness._COMMON_FILE == COMMON_STATE_FNAME == serialization.COMMON_STATE_FNAME
    assert COMMON_KEY.startswith(wholeness._COMMON_KEY)


def test_a_whole_one_has_no_fault(whole: Path) -> None:
    assert fault_of(whole) is None
    keys, ends = read_metadata(whole / METADATA)
    assert sorted(keys) == sorted(["weight", COMMON_KEY])
    # Entry after entry, so that the last one's end is the file's.
    assert ends == {DATA: (whole / DATA).stat().st_size}


@pytest.mark.parametrize("name", [DATA, METADATA, CONFIG])
def test_a_file_that_is_missing_or_empty_or_short_is_named(whole: Path, name: str) -> None:
    size = (whole / name).stat().st_size
    for kept in (size - 1, size // 2, 0):
        cut(whole / name, kept)
        assert f"iter_0000010/{name} " in fault_of(whole), kept
    (whole / name).unlink()
    assert fault_of(whole) == f"iter_0000010/{name} is missing"


def test_how_short_it_is_is_said(whole: Path) -> None:
    size = (whole / DATA).stat().st_size
    cut(whole / DATA, 7)
    assert fault_of(whole) == f"iter_0000010/{DATA} has 7 of {size:,} bytes"


def test_no_folder(tmp_path: Path) -> None:
    assert fault_of(tmp_path / "iter_0000020") == "there is no folder iter_0000020"


def test_every_cut_of_the_list_is_seen(whole: Path) -> None:
    """Of garbled bytes, too: a pickle is a program, and may do anything."""
    content = (whole / METADATA).read_bytes()
    for at in range(0, len(content), 7):
        (whole / METADATA).write_bytes(content[:at])
        assert read_metadata(whole / METADATA) is None
    for other in (b"text", b"\x80\x04N.", pickle.dumps({"storage_data": {}})):
        (whole / METADATA).write_bytes(other)
        assert read_metadata(whole / METADATA) is None


def test_no_code_of_the_list_is_run(whole: Path) -> None:
    marker = whole / "was-run"

    class Acts:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    with (whole / METADATA).open("rb") as file:
        metadata = pickle.load(file)
    metadata.planner_data = Acts()
    (whole / METADATA).write_bytes(pickle.dumps(metadata))
    assert fault_of(whole) is None
    assert not marker.exists()
    pickle.loads((whole / METADATA).read_bytes())
    assert marker.exists()


def test_common_state_in_a_file_of_its_own(whole: Path) -> None:
    """As Megatron wrote it before 0.19."""
    shutil.rmtree(whole)
    dcp.save({"weight": torch.ones(100)}, checkpoint_id=whole, no_dist=True)
    # Torch's own format ends here.
    assert fault_of(whole) is None
    core.save_config(core.CheckpointingConfig("torch_dist"), str(whole))
    assert fault_of(whole) == "iter_0000010/common.pt is missing"
    torch.save({"iteration": 10}, whole / "common.pt")
    assert fault_of(whole) is None
    cut(whole / "common.pt", (whole / "common.pt").stat().st_size - 1)
    assert fault_of(whole) == "iter_0000010/common.pt is cut short"


def test_a_config_of_something_else(whole: Path) -> None:
    (whole / CONFIG).write_text(json.dumps(["torch_dist"]))
    assert f"{CONFIG} cannot be read" in fault_of(whole)


def test_a_file_a_rank(tmp_path: Path) -> None:
    folder = tmp_path / "iter_0000010"
    for rank in ("mp_rank_00", "mp_rank_01"):
        (folder / rank).mkdir(parents=True)
        torch.save({"iteration": 10}, folder / rank / "model_optim_rng.pt")
    assert fault_of(folder, ["mp_rank_00", "mp_rank_01"]) is None
    assert "mp_rank_02 is missing" in fault_of(folder, ["mp_rank_02"])
    file = folder / "mp_rank_01/model_optim_rng.pt"
    cut(file, 100)
    assert fault_of(folder) == "iter_0000010/mp_rank_01/model_optim_rng.pt is cut short"
    file.write_bytes(b"")
    assert fault_of(folder) == "iter_0000010/mp_rank_01/model_optim_rng.pt is empty"
    # Of long ago, when torch wrote no zip.
    torch.save({"iteration": 10}, file, _use_new_zipfile_serialization=False)
    assert fault_of(folder) is None
    file.unlink()
    assert fault_of(folder) == "iter_0000010/mp_rank_01/model_optim_rng.pt is missing"


def test_a_look_at_each_file_and_no_tensor(whole: Path, monkeypatch) -> None:
    calls = {"stat": [], "open": []}
    for name, seen in calls.items():
        original = getattr(Path, name)

        def watched(path, *args, original=original, seen=seen, **kwargs):
            seen.append(path.name)
            return original(path, *args, **kwargs)

        monkeypatch.setattr(Path, name, watched)
    assert fault_of(whole) is None
    assert calls["stat"].count(DATA) == 1
    assert set(calls["open"]) == {METADATA, CONFIG}
