"""A chain through the real trainer: cut off anywhere, it ends bit for bit as an unbroken one."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from saved import tensors
from trainer import REPOSITORY, TINY, Job, Result, run

from tst_megatron.chains.chain import Chain, chain_of
from tst_megatron.chains.file import read_chain
from tst_megatron.runs.inputs import read_runs
from tst_megatron.runs.ledger import read_ledger

CUT, STEPS = 4, 10
_TRAINING_S = 400
# Bags in the first link, growth where they end, and experts later on.
LINKS = """
links:
  - name: small
    until: 40%
    flags: {num-layers: 2, tst-bag-size: 2, tst-step-ratio: 0.4}
  - name: grown
    start: grow
    steps: 5
    flags: {grow: stack, num-layers: 4, tensor-model-parallel-size: 1}
  - name: experts
    start: upcycle
    flags: {upcycle: true, num-experts: 4, moe-router-load-balancing-type: none}
"""


@dataclass(frozen=True)
class Written:
    """A chain's file, and its folder."""

    file: Path
    out: Path

    @property
    def chain(self) -> Chain:
        return chain_of(read_chain(self.file), self.out)

    @property
    def folders(self) -> tuple[Path, ...]:
        return tuple(link.folder for link in self.chain.links)


def written(folder: Path, corpus) -> Written:
    words = (word.removeprefix("--").partition("=") for word in (*TINY, *corpus.flags))
    more = ("save-interval: 3", "fixed-validation: true")
    lines = [
        f'  {name}: "{value}"' if equals else f"  {name}: true" for name, equals, value in words
    ]
    file = folder / "chain.yaml"
    file.write_text(
        "\n".join(["name: stacked", "flags:", *lines, *(f"  {one}" for one in more), LINKS])
    )
    return Written(file, folder / "out")


@pytest.fixture(scope="module")
def unbroken(corpus, tmp_path_factory) -> tuple[Written, list[Result]]:
    """The same starts by a launcher, one after the other."""
    one = written(tmp_path_factory.mktemp("unbroken"), corpus)
    return one, [run(Job(one.out, link.words)) for link in one.chain.links]


def start(one: Written) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [
            *(sys.executable, "-W", "ignore", "-m", "tst_megatron", "chain", "run"),
            *(str(one.file), f"--out={one.out}"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "TST_MEGATRON_DEVICE": "cpu"},
        text=True,
    )


def until(reached: Callable[[], bool], running: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + _TRAINING_S
    while not reached():
        assert running.poll() is None, running.stdout and running.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def kill(running: "subprocess.Popen[str]") -> None:
    """All of its processes, as where the machine fails."""
    root = psutil.Process(running.pid)
    for process in [root, *root.children(recursive=True)]:
        process.kill()
    running.wait()


def tracked(folder: Path) -> str:
    tracker = folder / "latest_checkpointed_iteration.txt"
    return tracker.read_text() if tracker.exists() else ""


def test_a_chain_that_is_cut_off_anywhere_ends_as_an_unbroken_one(
    corpus, unbroken: tuple[Written, list[Result]], tmp_path: Path
) -> None:
    one = written(tmp_path, corpus)
    small, grown, experts = one.folders
    for reached in (
        (small / f"iter_{CUT:07d}").exists,  # While the link saves its last step.
        lambda: tracked(small) == str(CUT),  # Between the links, or as the first one ends.
    ):
        running = start(one)
        until(reached, running)
        kill(running)
    assert not tracked(grown)
    # Asked to stop inside the second one, it saves.
    running = start(one)
    until(lambda: tracked(grown) == str(CUT + 2), running)
    running.send_signal(signal.SIGTERM)
    said, _ = running.communicate(timeout=_TRAINING_S)
    assert running.returncode == 130, said
    assert int(tracked(grown)) == read_ledger(one.chain.ledger).steps[-1]["step"]
    running = start(one)
    said, _ = running.communicate(timeout=_TRAINING_S)
    assert running.returncode == 0, said
    assert "Link 1 of 3, small, is done: step 4." in said
    assert f"Checkpoint: {experts}" in said.replace(os.path.relpath(experts), str(experts))
    other, (*_, last) = unbroken
    mine, theirs = (tensors(of.folders[-1], STEPS) for of in (one, other))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    steps = read_ledger(one.chain.ledger).steps
    assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
    assert [line["loss"] for line in steps] == last.losses
    changed = one.file.read_text().replace("until: 40%", "until: 50%")
    one.file.write_text(changed.replace("steps: 5", "steps: 4"))
    again = start(one)
    said, _ = again.communicate(timeout=_TRAINING_S)
    assert again.returncode == 2
    assert "holds a link small with steps 0 to 4, and this one has 0 to 5" in said


def test_one_ledger_is_the_chain_s(unbroken: tuple[Written, list[Result]]) -> None:
    one, _ = unbroken
    (found,) = read_runs([one.out])
    assert found.path == one.chain.ledger
    assert found.num_steps == STEPS
    stages = [(span.stage.name, span.first_step, span.last_step) for span in found.stages]
    assert stages == [
        ("bags of 2, 2 layers, dense", 1, CUT),
        ("dense", CUT + 1, STEPS - 1),
        ("single tokens", STEPS, STEPS),
    ]
    assert found.curve.steps.tolist() == [5, 10]
    assert [(link.name, link.after) for link in found.links] == [
        *(("small", 0), ("grown", CUT), ("experts", STEPS - 1))
    ]
    facts = [line["facts"] for line in read_ledger(one.chain.ledger).steps]
    assert [facts[step] for step in (CUT - 1, CUT, STEPS - 1)] == [
        {"bag_size": 2},
        {"bag_size": 1, "num_layers": 4},
        {"bag_size": 1, "num_layers": 4, "num_experts": 4},
    ]


def test_a_link_that_is_done_ends_at_once_and_one_that_comes_too_early_is_refused(
    corpus, unbroken: tuple[Written, list[Result]], tmp_path: Path
) -> None:
    other, _ = unbroken
    done = run(Job(other.out, other.chain.links[0].words))
    assert "step 4 is in" in done.output
    assert "training ..." not in done.output
    one = written(tmp_path, corpus)
    early = run(Job(one.out, one.chain.links[1].words), check=False)
    assert early.code == 2
    assert "the checkpoint to go on from in" in early.output
