"""Read checkpoints in tests, whatever layout wrote them."""

from pathlib import Path

import torch
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
