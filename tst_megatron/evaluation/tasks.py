"""Which tasks are meant: files of lm-evaluation-harness' format, names of ours, names of its own.

The one idea: nothing is downloaded. A task's data lie beside its file, come with this package, or
are on this machine already; whatever else is wrong with one is said before a model is loaded.
"""

import difflib
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tst_megatron.errors import UserError
from tst_megatron.evaluation.probes import PROBES

# Formats of files that `datasets` reads without a script.
_FORMATS = ("json", "csv", "parquet", "arrow", "text")
_YAML = (".yaml", ".yml")
_NEAREST = 4


def forbid_downloads() -> None:
    """Before anything of Hugging Face is imported, which reads these once; or late, which the one
    of its libraries that the others ask is then told of."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        os.environ[name] = "1"
    if (constants := sys.modules.get("huggingface_hub.constants")) is not None:
        vars(constants)["HF_HUB_OFFLINE"] = True
    # Their bars tell of reading files; ours tells of answers.
    for name in (
        "TQDM_DISABLE",
        "HF_DATASETS_DISABLE_PROGRESS_BARS",
        "HF_HUB_DISABLE_PROGRESS_BARS",
    ):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def check_harness(flag: str = "--tasks", alone: str = "--held-out") -> None:
    """Whether lm-evaluation-harness is there; it is not imported, which takes seconds.

    Args:
        flag: that asks for it.
        alone: what does without it.

    Raises:
        UserError: it is not.
    """
    if find_spec("lm_eval") is None:
        raise UserError(
            f"{flag} needs lm-evaluation-harness, which is not installed: "
            f"pip install 'tst-megatron[evaluation]', or give {alone} alone"
        )
    logging.getLogger("lm_eval").setLevel(logging.ERROR)


def check_files(specs: Sequence[str]) -> None:
    """Whether those of the tasks that are files are there.

    Raises:
        UserError: one is not.
    """
    for spec in filter(_is_file, specs):
        _check_file(Path(spec))


def _is_file(spec: str) -> bool:
    return spec.endswith(_YAML) or os.sep in spec


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise UserError(
            f"the task {path} is missing: give a YAML file of lm-evaluation-harness, or a name"
        )


def load_tasks(specs: Sequence[str], num_fewshot: int | None, scratch: Path) -> dict[str, Any]:
    """Tasks of lm-evaluation-harness by their names, with their data.

    Args:
        specs: files and names.
        num_fewshot: examples before an item, in place of the tasks' own number; None to leave it.
        scratch: a folder for what `datasets` makes of the data.

    Raises:
        UserError: there is no such task, it is not one, it would have to be downloaded, or two have
            one name.
    """
    tasks: dict[str, Any] = {}
    for spec in specs:
        for name, task in _loaded(spec, scratch):
            if name in tasks:
                raise UserError(f"two tasks are called {name}: give one of them, or rename one")
            tasks[name] = _with_fewshot(task, name, num_fewshot)
    return tasks


def _loaded(spec: str, scratch: Path) -> Iterator[tuple[str, Any]]:
    if spec in PROBES:
        yield spec, _made(PROBES[spec].config(), spec)
    elif _is_file(spec):
        config = _file_config(Path(spec), scratch)
        yield config["task"], _made(config, spec)
    else:
        yield from _of_the_harness(spec)


def _made(config: dict[str, Any], spec: str) -> Any:
    """A task, with its data read.

    Raises:
        UserError: it cannot be.
    """
    from lm_eval.api.task import ConfigurableTask

    try:
        task = ConfigurableTask(config=config)
    # What is wrong with a file is found wherever it is used first: in templates, fields, data.
    except Exception as error:
        raise UserError(f"the task {spec} cannot be read: {reason(error)}") from None
    _check(task, spec)
    return task


def _check(task: Any, spec: str) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        raise UserError(f"the task {spec} runs what a model writes, which is not done here")
    if getattr(task, "MULTIMODAL", False):
        raise UserError(f"the task {spec} shows pictures or sound, and these models read text")


def _with_fewshot(task: Any, name: str, num_fewshot: int | None) -> Any:
    """As lm-evaluation-harness does it: a task that says 0 has none."""
    own = task.get_config("num_fewshot")
    if num_fewshot is not None and own != 0:
        if num_fewshot and task.get_config("output_type") == "loglikelihood_rolling":
            raise UserError(
                f"the task {name} scores whole texts, which have no examples before them: leave "
                "out --num-fewshot"
            )
        task.set_config(key="num_fewshot", value=num_fewshot)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=1234)
    return task


def _file_config(path: Path, scratch: Path) -> dict[str, Any]:
    """A task's file, with its data named by paths that are there."""
    from lm_eval.tasks._yaml_loader import load_yaml

    _check_file(path)
    try:
        config: dict[str, Any] = load_yaml(path)
    except Exception as error:  # Of the file, of one that it includes, of its functions.
        raise UserError(f"the task {path} cannot be read: {reason(error)}") from None
    if "group" in config or not isinstance(config.get("task"), str):
        raise UserError(
            f'the task {path} has no "task: NAME", as a file of one task has: give the files of '
            "the tasks of a group"
        )
    for key in ("tag", "task_list"):
        config.pop(key, None)
    if config.get("custom_dataset") is None:
        _name_data(config, path, scratch)
    return config


def _name_data(config: dict[str, Any], path: Path, scratch: Path) -> None:
    """See to it that the data are files of this machine, and are read anew each time.

    Raises:
        UserError: they are not.
    """
    data = str(config.get("dataset_path"))
    told = dict(config.get("dataset_kwargs") or {})
    if data in _FORMATS:
        if not told.get("data_files"):
            raise UserError(
                f"the task {path} names no data_files, which dataset_path {data} needs: add them "
                "to its dataset_kwargs"
            )
        told["data_files"] = _there(told["data_files"], path)
    else:
        folder = next((one for one in (path.parent / data, Path(data)) if one.is_dir()), None)
        if folder is None:
            raise UserError(
                f"the task {path} would download the data set {data}, and nothing is downloaded: "
                "give its data as files (dataset_path: json, dataset_kwargs: data_files: ...)"
            )
        config["dataset_path"] = str(folder.resolve())
    config["dataset_kwargs"] = {**told, "cache_dir": str(scratch)}


def _there(files: Any, path: Path) -> Any:
    """Paths as they are from here: beside the task's file, or from the working folder."""
    if isinstance(files, Mapping):
        return {split: _there(of_split, path) for split, of_split in files.items()}
    if isinstance(files, list):
        return [_there(one, path) for one in files]
    name = str(files)
    places = [path.parent / name, Path(name)]
    found = next((one for one in places if one.is_file()), None)
    if found is None:
        raise UserError(
            f"the task {path} names the data file {name}, which is neither beside it nor in the "
            "working folder"
        )
    return str(found.resolve())


def _of_the_harness(name: str) -> Iterator[tuple[str, Any]]:
    """A task or a group that comes with lm-evaluation-harness, its data having been read before."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    if name not in manager.all_tasks:
        near = difflib.get_close_matches(name, [*PROBES, *manager.all_tasks], _NEAREST, 0.5)
        # Ours are few and are always worth naming.
        nearest = list(dict.fromkeys([*near, *PROBES]))
        raise UserError(
            f"there is no task {name}: give a YAML file, or a name such as {', '.join(nearest)}"
        )
    try:
        tasks = manager.load([name])["tasks"]
    except Exception as error:  # `datasets` has one of its own for every way of not being there.
        raise UserError(
            f"the task {name} cannot be read, and nothing is downloaded ({reason(error)}): give "
            "its data as files, in a YAML file of your own"
        ) from None
    for own, task in tasks.items():
        _check(task, own)
        yield own, task


def reason(error: Exception) -> str:
    """An error of somebody else's, in a line."""
    return " ".join((str(error) or repr(error)).split())[:300].removesuffix(".")


def scratch_folder() -> TemporaryDirectory[str]:
    """For what is made of data while a command runs."""
    return TemporaryDirectory(prefix="tst-megatron-evaluate-")
