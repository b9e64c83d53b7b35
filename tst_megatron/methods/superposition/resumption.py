"""Whether a run goes on under the schedule of its checkpoint, and by whose length its text is cut.

The one idea: a schedule is its stages in samples. How long the run is beyond them is no part of it,
so a longer or shorter run is the same one, and reads on in the documents that were set aside for
each stage by the length that the run had first.
"""

import argparse
import json
from typing import Any

from tst_megatron.methods.superposition.schedule import Stage
from tst_megatron.stock.batch_sizes import BatchSizes, train_steps

TEXT = "text"
"""Among what a checkpoint remembers: the stages by which its run's text is laid out."""
_MEASURED = ("points", "switch_step")


def settings(saved: dict[str, Any]) -> dict[str, Any]:
    """Of what a checkpoint remembers, that which a run cannot change while it goes on.

    Where the switch is decided by measurement that is the rule, and not where it has come to be.
    """
    saved = {name: value for name, value in saved.items() if name != TEXT}
    if "auto" not in saved:
        return saved
    rule = {name: value for name, value in saved["auto"].items() if name not in _MEASURED}
    return {name: value for name, value in saved.items() if name != "stages"} | {"auto": rule}


def is_same_schedule(before: dict[str, Any], now: dict[str, Any], step: int) -> bool:
    """Whether a run goes on with every sample as it was to be.

    Args:
        before: what the checkpoint remembers.
        now: what this run would have remembered.
        step: that the run goes on from.
    """
    # Lists come back as tuples or the other way about; JSON has one of them.
    before, now = (json.loads(json.dumps(saved)) for saved in (before, now))
    if "auto" in before and "auto" not in now and _is_decided(before["auto"], step):
        before.pop("auto")
    return settings(before) == settings(now)


def _is_decided(auto: dict[str, Any], step: int) -> bool:
    return auto["switch_step"] is not None or step >= auto["last_switch"]


def stages_of_text(
    before: dict[str, Any], saved: argparse.Namespace
) -> list[tuple[int, int]] | None:
    """Bag size and samples of the stages by which a checkpoint's run laid out its text.

    None where its arguments do not tell how long it was, as of one that was made by other programs.

    Args:
        before: what the checkpoint remembers.
        saved: Megatron's arguments of its run, which tell where older ones remember less.
    """
    if TEXT in before:
        return [(size, samples) for size, samples in before[TEXT]]
    if not hasattr(saved, "train_iters"):
        return None
    batches = BatchSizes.from_args(saved)
    total = batches.samples_of_steps(train_steps(saved))
    if "auto" in before:
        auto = before["auto"]
        least, most = (batches.samples_of_steps(auto[f"{end}_switch"]) for end in ("first", "last"))
        return [(auto["bag_size"], most), (1, total - least)]
    stages = [(size, samples) for size, samples in before["stages"]]
    return [*stages, (1, total - sum(samples for _, samples in stages))]


def in_steps(stages: list[tuple[int, int]], args: argparse.Namespace) -> str | None:
    """Stages of some samples as ``--tst-schedule`` has them in steps; None where it cannot.

    Args:
        stages: bag size and samples.
        args: of a run of one batch size, or of several.
    """
    batch = args.global_batch_size
    if args.step_batch_size_schedule is not None or any(samples % batch for _, samples in stages):
        return None
    return ",".join(f"{size}:{samples // batch}steps" for size, samples in stages)


def sizes_read(stages: tuple[Stage, ...]) -> set[int]:
    """Bag sizes that samples are read in."""
    return {stage.bag_size for stage in stages if stage.num_samples}
