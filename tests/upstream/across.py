"""Runs that begin with the installed Megatron, and go on with another one.

``python -m tests.upstream.across begin|go-on FOLDER OUT.json`` trains with the Megatron that Python
finds first: whole runs in bags, then single tokens, with a checkpoint in their middle; or from that
checkpoint to the end. What goes on with another Megatron must end with the losses of the whole run.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.upstream import REPOSITORY

# Helpers of tests are found as pytest's tests find them.
sys.path.insert(0, str(REPOSITORY / "tests"))

from trainer import TINY, Job, run_all

HALF = 5
_SHARED = (
    *(one for one in TINY if not one.startswith(("--num-layers", "--tokenizer-type", "--split"))),
    *("--mock-data", "--tokenizer-type=NullTokenizer", "--vocab-size=300"),
    *("--tst-bag-size=2", "--tst-step-ratio=0.7", f"--save-interval={HALF}"),
)
_TWIN = "--hybrid-layer-pattern=*-*-"
KINDS: Mapping[str, tuple[str, ...]] = {
    "GPTModel": ("--num-layers=2",),
    "HybridModel": (_TWIN,),
    "GPTModel, distributed optimizer": (
        *("--num-layers=2", "--use-distributed-optimizer", "--dist-ckpt-optim-fully-reshardable"),
    ),
    "GPTModel, multi-token prediction": ("--num-layers=2", "--mtp-num-layers=1"),
    "HybridModel, multi-token prediction": (f"{_TWIN}/*-",),
}
AS_TWIN = "GPTModel, as a HybridModel"
"""Goes on so; it begins as the first of the others."""


def main(which: str, folder: Path, out: Path) -> None:
    """Train, and write the losses of each run's second half, by its kind."""
    goes_on = which == "go-on"
    jobs: dict[str, Job] = {}
    for number, (kind, own) in enumerate(KINDS.items()):
        place = f"{number}"
        if goes_on:
            jobs[kind] = _going_on(folder, f"{place}-on", own, place)
        else:
            save = f"--save={folder / place / 'saved'}"
            jobs[kind] = Job(folder / place, (*_SHARED, *own, save))
    if goes_on:
        jobs[AS_TWIN] = _going_on(folder, "twin-on", (_TWIN,), "0")
    results = dict(zip(jobs, run_all(list(jobs.values())), strict=True))
    losses = {kind: result.losses[0 if goes_on else HALF :] for kind, result in results.items()}
    out.write_text(json.dumps(losses))


def _going_on(folder: Path, name: str, own: tuple[str, ...], place: str) -> Job:
    start = (f"--load={folder / place / 'saved'}", f"--ckpt-step={HALF}")
    return Job(folder / name, (*_SHARED, *own, *start))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
