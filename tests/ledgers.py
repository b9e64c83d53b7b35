"""Made-up ledgers, written as files and read back, so that the tests see what a run leaves."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tst_megatron.runs.ledger import Ledger, read_ledger

FLOPS_A_STEP = 1e9
BATCH_SIZE, SEQ_LENGTH = 4, 128


def write_ledger(
    path: Path,
    losses: dict[int, float | None],
    *,
    stages: Sequence[tuple[int, int]] | None = None,
    last_step: int | None = None,
    planned: int = 100,
    seconds_a_step: float = 2.0,
    flags: dict[str, Any] | None = None,
) -> Ledger:
    """A run that logs every tenth step and validates at the steps of ``losses``."""
    lines: list[dict[str, Any]] = [
        {
            "kind": "header",
            "schema_version": 1,
            "step": 0,
            "seed": 1234,
            "device": "cpu",
            "superposition": None if stages is None else {"stages": [list(s) for s in stages]},
            "flags": {
                "global_batch_size": BATCH_SIZE,
                "seq_length": SEQ_LENGTH,
                "train_iters": planned,
                "save": str(path),
                "tst_superposition": stages is not None,
                **(flags or {}),
            },
        }
    ]
    end = max([*losses, 0]) if last_step is None else last_step
    for step in range(1, end + 1):
        stage, bag_size = _stage(stages or (), step)
        progress = {
            "step": step,
            "wall_clock_s": step * seconds_a_step,
            "positions": step * BATCH_SIZE * SEQ_LENGTH,
            "data_tokens": step * BATCH_SIZE * SEQ_LENGTH * bag_size,
            "flops": step * FLOPS_A_STEP,
        }
        if step % 10 == 0 or step == end:
            lines.append({"kind": "step", **progress, "stage": stage, "bag_size": bag_size})
        if step in losses:
            lines.append({"kind": "validation", **progress, "next_token_loss": losses[step]})
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return read_ledger(path)


def _stage(stages: Sequence[tuple[int, int]], step: int) -> tuple[int, int]:
    end = 0
    for index, (bag_size, samples) in enumerate(stages):
        end += samples
        if (step - 1) * BATCH_SIZE < end:
            return index, bag_size
    return len(stages), 1


def bag_size(line: dict[str, Any]) -> int:
    """Of a step line; an ordinary step has none, which is a bag of one."""
    return int(line["facts"].get("bag_size", 1))


def bag_loss(line: dict[str, Any]) -> float | None:
    """Of a validation line; None where it was not measured."""
    loss: float | None = line.get("losses", {}).get("bag loss")
    return loss


def held_out(line: dict[str, Any], table: str = "losses") -> dict[str, float]:
    """All losses of a validation line by name, or their ``stderrs``."""
    own = "next_token_loss" if table == "losses" else "next_token_loss_stderr"
    return {"lm loss": line[own], **line.get(table, {})}


def last_evaluated(path: Path, step: int) -> float:
    """The held-out loss of a step as the last start that evaluated there had it.

    Readers take the first, which in a run that starts from another model's checkpoint is that
    model's, from the lines that it brings along.
    """
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    headers = [number for number, line in enumerate(lines) if line["kind"] == "header"]
    (loss,) = (
        line["next_token_loss"]
        for line in lines[headers[-1] :]
        if line["kind"] == "validation" and line["step"] == step
    )
    return float(loss)
