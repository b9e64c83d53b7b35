"""Figures of a run in W&B and MLflow as well as in TensorBoard, read back from the files that each
keeps where there is no network. `make test-trackers` has their packages; elsewhere it is skipped.
"""

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainer import TINY, Job, Result, attempt, lines, run

if not os.environ.get("TST_MEGATRON_NEEDS_TRACKERS"):
    pytest.importorskip("wandb")
    pytest.importorskip("mlflow")

OURS = (
    *("stage", "positions", "data-tokens", "samples", "flops", "bag-size", "gpu-hours"),
    *("compute-seconds", "lm loss validation stderr", "lm loss validation in bits a byte"),
    *("bag loss validation stderr", "other-run-steps"),
)
MEGATRONS = ("learning-rate", "grad-norm", "lm loss", "bag loss", "lm loss validation")
FLAGS = (*TINY, "--tst-bag-size=2", "--tst-step-ratio=0.6", "--fixed-validation")


@pytest.fixture(scope="module")
def tracked(corpus, tmp_path_factory) -> tuple[Path, Result]:
    """A run that was cut off and resumed, with all three, compared with one of before."""
    folder = tmp_path_factory.mktemp("tracked")
    before = run(Job(folder / "before", (*FLAGS, *corpus.flags)))
    job = Job(
        folder / "run",
        (
            *(*FLAGS, *corpus.flags, f"--save={folder / 'saved'}", "--save-interval=5"),
            *(f"--load={folder / 'saved'}", f"--tensorboard-dir={folder / 'board'}"),
            *("--wandb-project=superposed", "--wandb-exp-name=tiny"),
            *("--mlflow-experiment=superposed", "--mlflow-run-name=tiny"),
            *(f"--compare-with={before.ledger_file}", "--exit-interval=5"),
        ),
        environment={"WANDB_MODE": "offline", "WANDB_SILENT": "true"},
    )
    run(job)
    return folder, run(job)


def in_tensorboard(folder: Path) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for file in sorted((folder / "board").iterdir()):
        events = EventAccumulator(str(file)).Reload()
        for name in events.Tags()["scalars"]:
            found.setdefault(name, {}).update({e.step: e.value for e in events.Scalars(name)})
    return found


def in_wandb(folder: Path) -> dict[str, dict[int, float]]:
    """The history of all its starts, each a file of records."""
    from wandb.proto import wandb_internal_pb2 as messages

    found: dict[str, dict[int, float]] = {}
    for file in sorted((folder / "saved" / "wandb").rglob("*.wandb")):
        for content in records(file.read_bytes()):
            record = messages.Record()
            record.ParseFromString(content)
            if record.WhichOneof("record_type") != "history":
                continue
            row = {
                item.key or "/".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            for name, value in row.items():
                if not name.startswith("_"):
                    found.setdefault(name, {})[int(row["_step"])] = value
    return found


def records(content: bytes) -> Iterator[bytes]:
    """Of W&B's file: LevelDB's log (blocks of 32 KiB, records whole or in parts) after 7 bytes."""
    at, whole = 7, b""
    while at + 7 <= len(content):
        left = 2**15 - at % 2**15
        if left < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", content[at : at + 7])
        whole = (whole if kind in (3, 4) else b"") + content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            yield whole


def mlflow_runs(folder: Path) -> tuple[Any, list[Any]]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'saved'}/mlflow.db")
    experiment = client.get_experiment_by_name("superposed")
    return client, client.search_runs([experiment.experiment_id])


def in_mlflow(folder: Path) -> dict[str, dict[int, float]]:
    client, (found,) = mlflow_runs(folder)
    return {
        name: {one.step: one.value for one in client.get_metric_history(found.info.run_id, name)}
        for name in found.data.metrics
    }


def test_all_have_the_same_figures(tracked) -> None:
    folder, result = tracked
    board, wandb, mlflow = in_tensorboard(folder), in_wandb(folder), in_mlflow(folder)
    # MLflow listens to TensorBoard's writer, from the first step on.
    assert set(board) - set(mlflow) == set()
    for name in (*OURS, *MEGATRONS):
        assert board[name], name
        for other in (wandb, mlflow):
            assert set(other[name]) == set(board[name]), name
            for step, value in board[name].items():
                # TensorBoard keeps float32.
                assert other[name][step] == pytest.approx(value, rel=2**-23), (name, step)
    told = {line["step"]: line for line in lines(result, "step")}
    assert mlflow["data-tokens"] == {step: line["data_tokens"] for step, line in told.items()}
    assert sorted(told) == list(range(1, 11))


def test_a_resumed_run_is_one_run_of_mlflow(tracked) -> None:
    folder, _ = tracked
    _, (found,) = mlflow_runs(folder)
    assert found.info.run_name == "tiny"
    assert found.info.status == "FINISHED"
    assert found.data.params["tst_bag_size"] == "2"
    kept = json.loads((folder / "saved" / "mlflow.json").read_text())
    assert kept["run_id"] == found.info.run_id


def test_without_tensorboard_the_others_have_all(corpus, tmp_path: Path) -> None:
    save, place = f"--save={tmp_path / 'saved'}", f"sqlite:///{tmp_path / 'mine.db'}"
    flags = (*FLAGS, *corpus.flags, save, "--save-interval=5", "--exit-interval=5")
    mlflow = ("--mlflow-experiment=a", f"--mlflow-tracking-uri={place}")
    run(Job(tmp_path, (*flags, *mlflow)))
    wandb = ("--wandb-project=superposed", "--wandb-exp-name=alone")
    offline = {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    run(Job(tmp_path / "two", (*flags, *wandb), environment=offline))
    # It ends in bags.
    assert {*MEGATRONS, "stage", "data-tokens"} - set(in_wandb(tmp_path)) == {"lm loss"}
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=place)
    (found,) = client.search_runs([client.get_experiment_by_name("a").experiment_id])
    assert {"bag loss", "learning-rate", "stage", "lm loss validation"} <= set(found.data.metrics)
    # It ended before its last step.
    assert found.info.status == "KILLED"


def test_a_place_that_is_not_there_is_one_sentence(corpus, tmp_path: Path) -> None:
    flags = (*FLAGS, *corpus.flags, "--mlflow-experiment=a")
    for more, says in (
        (("--mlflow-tracking-uri=http://127.0.0.1:9",), "MLflow at http://127.0.0.1:9 cannot be"),
        (("--mlflow-tracking-uri=http://me:secret@127.0.0.1:9",), "has a password"),
        ((), "--mlflow-experiment needs a place"),
    ):
        refused = attempt(tmp_path, (*flags, *more))
        assert refused.code == 2, refused.output[-2000:]
        assert says in refused.output, refused.output[-2000:]
        assert "Traceback" not in refused.output
