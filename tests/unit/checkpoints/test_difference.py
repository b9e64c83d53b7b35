"""Two checkpoints are compared by what is in them, however they are cut into chunks."""

import json
import math
import os
import pickle
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core.dist_checkpointing import core
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.metadata import TensorProperties

from tst_megatron.checkpoints import derived
from tst_megatron.checkpoints.commands import diff
from tst_megatron.checkpoints.derived import Made, NewTensor, Piece, Plan
from tst_megatron.checkpoints.difference import Values, difference
from tst_megatron.checkpoints.saved import Saved, overlap
from tst_megatron.errors import UserError

ROWS, COLUMNS = 6, 4


def kept(folder: Path, tensors: dict[str, torch.Tensor], **arguments: Any) -> Path:
    """A checkpoint with these tensors, a chunk each."""
    step = folder / "iter_0000003"
    dcp.save(tensors, checkpoint_id=step, no_dist=True)
    core.save_config(core.CheckpointingConfig("torch_dist"), str(step))
    torch.save({"args": Namespace(**arguments), "iteration": 3}, step / "common.pt")
    (folder / "latest_checkpointed_iteration.txt").write_text("3")
    return step


def cut(step: Path, out: Path, key: str, tensor: torch.Tensor, rows: int) -> Path:
    """The checkpoint with one tensor in chunks of so many rows."""
    saved = Saved(step)
    pieces = tuple(
        Piece(
            (start, 0),
            tuple(part.shape),
            Made(lambda part=part: part.clone()),
        )
        for start, part in zip(range(0, len(tensor), rows), tensor.split(rows), strict=True)
    )
    properties = TensorProperties(tensor.dtype)
    new = NewTensor(key, properties, tuple(tensor.shape), pieces)
    derived.write(Plan(saved, 3, (new,), {}, saved.common), out)
    return out / "iter_0000003"


@pytest.fixture
def table() -> torch.Tensor:
    return torch.arange(1.0, 1 + ROWS * COLUMNS).view(ROWS, COLUMNS)


def test_chunks_do_not_matter(tmp_path: Path, table) -> None:
    step = kept(tmp_path / "one", {"w": table})
    for rows in (1, 2, 4):
        other = cut(step, tmp_path / f"by-{rows}", "w", table, rows)
        assert len(Saved(other).tensors["w"].chunks) == math.ceil(ROWS / rows)
        for pair in ((step, other), (other, step)):
            found = difference(*map(Saved, pair))
            assert found.is_alike
            assert found.compared == 1
    changed = table.clone()
    changed[5, 3] += 12
    found = difference(Saved(step), Saved(cut(step, tmp_path / "far", "w", changed, 4)))
    assert found.values == {"w": Values(12.0, 12 / 36)}


def test_up_to_a_tolerance(tmp_path: Path, table) -> None:
    one = Saved(kept(tmp_path / "one", {"w": table}))
    other = Saved(kept(tmp_path / "other", {"w": table * (1 + 1e-4)}))
    assert not difference(one, other, 1e-5).is_alike
    found = difference(one, other, 1e-3)
    assert found.is_alike
    assert found.within["w"].relative == pytest.approx(1e-4, rel=0.01)


def test_what_is_no_number_is_far_from_one_and_like_itself(tmp_path: Path, table) -> None:
    odd = table.clone()
    odd[0, 0], odd[0, 1] = math.nan, math.inf
    one, other = (Saved(kept(tmp_path / n, {"w": t})) for n, t in (("o", odd), ("t", table)))
    assert difference(one, Saved(kept(tmp_path / "again", {"w": odd}))).is_alike
    assert difference(one, other, 0.5).values["w"].absolute == math.inf


def test_keys_shapes_and_dtypes(tmp_path: Path, table) -> None:
    one = Saved(kept(tmp_path / "one", {"w": table, "x": table, "y": table}))
    other = {"w": table.bfloat16(), "x": table[1:].clone(), "z": table}
    found = difference(one, Saved(kept(tmp_path / "other", other)))
    assert found.only == (["y"], ["z"])
    assert found.shapes == {"x": ([ROWS, COLUMNS], [ROWS - 1, COLUMNS])}
    assert found.dtypes == {"w": ("float32", "bfloat16")}
    assert not found.values


def test_arguments_by_what_they_say(tmp_path: Path, table) -> None:
    one = Saved(kept(tmp_path / "one", {"w": table}, hidden_size=32, lr=1e-3, save="a", rank=0))
    other = Saved(kept(tmp_path / "two", {"w": table}, hidden_size=64, lr=2e-3, save="b", rank=0))
    found = difference(one, other)
    assert found.arguments == {"hidden_size": (32, 64), "lr": (1e-3, 2e-3)}
    assert found.aside == {"save": ("a", "b")}
    found = difference(one, other, model_only=True)
    assert found.arguments == {"hidden_size": (32, 64)}
    assert set(found.aside) == {"lr", "save"}


def test_the_optimizer_can_be_left_out(tmp_path: Path, table) -> None:
    moment = "optimizer.state.exp_avg.w"
    one = Saved(kept(tmp_path / "one", {"w": table, moment: table}))
    other = Saved(kept(tmp_path / "two", {"w": table, moment: table + 1}))
    assert set(difference(one, other).values) == {moment}
    assert difference(one, other, model_only=True).is_alike


def test_one_place_in_one_file_is_not_read(tmp_path: Path, table, monkeypatch) -> None:
    step = kept(tmp_path / "one", {"w": table})
    linked = tmp_path / "linked"
    shutil.copytree(step, linked, copy_function=os.link)
    monkeypatch.setattr(Saved, "chunk", lambda *_: pytest.fail("a tensor was read"))
    assert difference(Saved(step), Saved(linked)).is_alike


def shown(capsys, *words: str) -> tuple[int, str]:
    from tst_megatron.cli import _given, _named

    (given,) = _given(_named(["checkpoint", "diff"]), ["checkpoint", "diff", *words])
    code = diff.main(given)
    return code, capsys.readouterr().out


def test_the_command(tmp_path: Path, table, capsys) -> None:
    for name, value in (("one", table), ("same", table), ("other", table + 1)):
        kept(tmp_path / name, {"w": value}, num_layers=2, save=name)
    one, same, other = (str(tmp_path / name) for name in ("one", "same", "other"))
    code, text = shown(capsys, one, same)
    assert code == 0
    assert "1 argument(s) of bookkeeping differ: save" in text
    assert text.endswith("alike: 1 tensors compared, equal in every value\n")
    code, text = shown(capsys, one, other)
    assert code == 1
    assert "w: by up to 1, 0.04 of its largest" in text
    code, text = shown(capsys, one, other, "--json", "--tolerance", "0.1")
    assert code == 0
    assert json.loads(text)["within"]["w"]["absolute"] == 1
    with pytest.raises(UserError, match="--tolerance -1 is below 0"):
        shown(capsys, one, other, "--tolerance", "-1")


def test_boxes_of_one_tensor() -> None:
    assert overlap((0, 0), (2, 4), (2, 0), (2, 4)) is None
    ours, theirs = overlap((0, 2), (3, 4), (1, 0), (4, 4))
    assert ours == (slice(1, 3), slice(0, 2))
    assert theirs == (slice(0, 2), slice(2, 4))


def test_no_code_of_a_list_is_run(tmp_path: Path, table) -> None:
    step = kept(tmp_path / "one", {"w": table})
    marker = tmp_path / "was-run"

    class Acts:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    with (step / ".metadata").open("rb") as file:
        listed = pickle.load(file)
    listed.planner_data = Acts()
    (step / ".metadata").write_bytes(pickle.dumps(listed))
    assert list(Saved(step).tensors) == ["w"]
    assert not marker.exists()
