"""Read checkpoints in tests, whatever layout wrote them, and make small ones."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from megatron.core.dist_checkpointing import core
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save


def tensors(checkpoints: Path, step: int) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, whole: model and, where it was saved, optimizer state."""
    gathered = checkpoints / f"{step}.pt"
    if not gathered.exists():
        dcp_to_torch_save(checkpoints / f"iter_{step:07d}", gathered)
    saved = torch.load(gathered, weights_only=False)
    return {name: value for name, value in saved.items() if isinstance(value, torch.Tensor)}


def parameters(checkpoints: Path, step: int) -> dict[str, torch.Tensor]:
    """The model's parameters alone."""
    return {
        name: value
        for name, value in tensors(checkpoints, step).items()
        if not name.startswith(("optimizer.", "rng_state", "rerun_state"))
    }


def save_arguments(checkpoints: Path, content_metadata: Any = None, **arguments: Any) -> str:
    """A checkpoint with Megatron's arguments, in its form before 0.19; the ``--load`` of it."""
    folder = checkpoints / "iter_0000010"
    dcp.save({"weight": torch.ones(10)}, checkpoint_id=folder, no_dist=True)
    core.save_config(core.CheckpointingConfig("torch_dist"), str(folder))
    common = {"args": Namespace(**arguments), "content_metadata": content_metadata}
    torch.save(common, folder / "common.pt")
    (checkpoints / "latest_checkpointed_iteration.txt").write_text("10")
    return f"--load={checkpoints}"
