"""Whether a checkpoint on this machine is whole: each file that it names is there, and long enough.

The one idea: a checkpoint lists itself, in a file that is written when all others are. To hold the
list against the folder takes a look at each file's length and reads no tensor. The list of a
distributed checkpoint is a pickle; it is taken apart here without any code of its own being run.
"""

import json
import pickle
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

METADATA = ".metadata"  # torch/distributed/checkpoint/filesystem.py, _metadata_fn
CONFIG = "metadata.json"  # megatron/core/dist_checkpointing/core.py, CONFIG_FNAME
_COMMON_FILE = "common.pt"  # strategies/common.py beside it: Megatron before 0.19
_COMMON_KEY = "common_state/"  # serialization.py there: since then
_RANK_FOLDERS = "mp_rank_*"  # megatron/training/checkpointing.py, get_checkpoint_name
_RANK_FILE = "model_optim_rng.pt"
_ZIP_MAGIC = b"PK\x03\x04"


def fault_of(folder: Path, ranks: Sequence[str] = ()) -> str | None:
    """What is wrong with a checkpoint of one step, in words; None of a whole one.

    Args:
        folder: the step's.
        ranks: folders that the run's layout needs where the checkpoint has a file a rank, as
            ``mp_rank_00``; with expert parallelism their names go on.
    """
    if not folder.is_dir():
        return f"there is no folder {folder.name}"
    try:
        if has_file_a_rank(folder):
            return _fault_of_rank_files(folder, ranks)
        return _fault_of_distributed(folder)
    except OSError as error:
        return f"{error.filename or folder} cannot be read: {error.strerror}"


def has_file_a_rank(folder: Path) -> bool:
    """Whether a step is of Megatron's ``torch``, which only the layout that wrote it can read.

    Raises:
        OSError: the folder cannot be read.
    """
    return any(folder.glob(_RANK_FOLDERS)) and not (folder / CONFIG).exists()


def _fault_of_distributed(folder: Path) -> str | None:
    """Of Megatron's ``torch_dist``, and torch's own format, which has neither config nor common."""
    if not (folder / METADATA).is_file():
        return f"{folder.name}/{METADATA} is missing"
    metadata = read_metadata(folder / METADATA)
    if metadata is None:
        return f"{folder.name}/{METADATA} cannot be read: it is empty, cut short or something else"
    keys, ends = metadata
    has_common_file = (folder / _COMMON_FILE).exists()
    has_common_key = any(key.startswith(_COMMON_KEY) for key in keys)
    has_config = (folder / CONFIG).exists()
    if (has_common_file or has_common_key) and not has_config:
        return f"{folder.name}/{CONFIG} is missing"
    if has_config and not _is_config(folder / CONFIG):
        return f"{folder.name}/{CONFIG} cannot be read: it is empty, cut short or something else"
    if has_config and not (has_common_file or has_common_key):
        return f"{folder.name}/{_COMMON_FILE} is missing"
    if has_common_file and (fault := _fault_of_saved(folder / _COMMON_FILE, folder.name)):
        return fault
    return _fault_of_lengths(folder, ends)


def _fault_of_lengths(folder: Path, ends: dict[str, int]) -> str | None:
    for name in sorted(ends):
        try:
            size = (folder / name).stat().st_size
        except FileNotFoundError:
            return f"{folder.name}/{name} is missing"
        if size < ends[name]:
            return f"{folder.name}/{name} has {size:,} of {ends[name]:,} bytes"
    return None


def _fault_of_rank_files(folder: Path, ranks: Iterable[str]) -> str | None:
    """Of Megatron's ``torch``: a folder a rank, and in it what ``torch.save`` wrote."""
    found = sorted(folder.glob(_RANK_FOLDERS))
    names = [path.name for path in found]
    for rank in ranks:
        if not any(name == rank or name.startswith(f"{rank}_") for name in names):
            return f"{folder.name}/{rank} is missing, or the checkpoint is of another layout"
    for path in found:
        if not (path / _RANK_FILE).exists():
            return f"{folder.name}/{path.name}/{_RANK_FILE} is missing"
        for file in sorted(path.glob("*.pt")):
            if fault := _fault_of_saved(file, f"{folder.name}/{path.name}"):
                return fault
    return None


def _fault_of_saved(file: Path, where: str) -> str | None:
    """Of what ``torch.save`` wrote: a zip, whose end says what is in it; once a bare pickle."""
    with file.open("rb") as opened:
        start = opened.read(len(_ZIP_MAGIC))
    if not start:
        return f"{where}/{file.name} is empty"
    if start == _ZIP_MAGIC and not zipfile.is_zipfile(file):
        return f"{where}/{file.name} is cut short"
    return None


def _is_config(file: Path) -> bool:
    try:
        config = json.loads(file.read_bytes())
    except ValueError:
        return False
    return isinstance(config, dict) and "sharded_backend" in config


def read_metadata(file: Path) -> tuple[Sequence[str], dict[str, int]] | None:
    """The list that a distributed checkpoint keeps of itself; None where the file is none.

    Args:
        file: a pickle of torch.distributed.checkpoint's ``Metadata``.

    Returns:
        The names of what was saved, and the bytes that each file must have at least.

    Raises:
        OSError: the file cannot be read.
    """
    with file.open("rb") as opened:
        try:
            metadata = _Unpickler(opened).load()
            fields = metadata.state
            entries = [entry.state for entry in fields["storage_data"].values()]
            ends: dict[str, int] = {}
            for entry in entries:
                name, end = str(entry["relative_path"]), int(entry["offset"] + entry["length"])
                ends[name] = max(ends.get(name, 0), end)
            return [str(key) for key in fields["state_dict_metadata"]], ends
        except OSError:
            raise
        # Garbled bytes are any program for the pickle machine, and so fail in any way.
        except Exception:
            return None


class Ignored:
    """Stands in for whatever a pickle names: it keeps what it is told, if that can be asked for."""

    def __new__(cls, *_: Any, **__: Any) -> "Ignored":
        """Whatever it is called with."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """As of a list."""

    def extend(self, values: Any) -> None:
        """Likewise."""


class _Kept(Ignored):
    """``Metadata`` and ``_StorageInfo``; the rest, most of a large file, is forgotten at once."""

    state: Any

    def __setstate__(self, state: Any) -> None:
        self.state = state


_KEPT = {
    ("torch.distributed.checkpoint.metadata", "Metadata"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
}


class _Unpickler(pickle.Unpickler):
    """Finds no class or function but stand-ins, so that a pickle can call nothing that acts."""

    def find_class(self, module: str, name: str) -> type[Ignored]:
        return _Kept if (module, name) in _KEPT else Ignored
