"""The command lines that checks start on GPUs are ones that Megatron takes there.

Where there is no GPU nothing else tells: a dry run has the flags of a CPU.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from trainer import Job, Result

from tests.gpu import layouts, restart, resume
from tests.gpu.checks import CHECKS, NUMBER
from tests.gpu.machine import Machine
from tst_megatron.errors import UserError
from tst_megatron.experiments.text import PreparedText
from tst_megatron.methods.registry import check_flags
from tst_megatron.planner import countable
from tst_megatron.planner import flags as planner_flags
from tst_megatron.planner.flags import planned_args
from tst_megatron.planner.hardware import GPUS
from tst_megatron.recipes import expand_recipe


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, corpus: Any) -> list[Job]:
    """The jobs that checks start; none runs."""
    jobs: list[Job] = []
    text = PreparedText(corpus.prefix.parent)

    def run_all(machine: Machine, started: list[Job], share: int = 1, check: bool = True) -> Any:
        jobs.extend(started)
        # Those that have to go well have; of the others a check says that they failed, and goes on.
        return [Result(0 if check else 1, "", Path()) for _ in started]

    answers = {
        "run_all": run_all,
        "run_on_cpu": run_all,
        "small_text": lambda machine: text,
        "large_text": lambda machine: text,
    }
    modules = {check.function.partition(":")[0] for check in CHECKS} | {"tests.gpu.tiny"}
    for module in modules:
        for name, answer in answers.items():
            monkeypatch.setattr(f"{module}.{name}", answer, raising=False)
    # What a plan does not count may be run.
    monkeypatch.setattr(planner_flags, "check_planned", _forget_what_is_read)
    monkeypatch.setattr(Machine, "needs", lambda *args: None)
    monkeypatch.setattr(Machine, "prepare", lambda machine: ())
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda *args: (9, 0))
    monkeypatch.setattr("torch.cuda.get_device_name", lambda *args: "NVIDIA H100 80GB HBM3")
    return jobs


def _forget_what_is_read(args: Any) -> None:
    for flag in countable._WHAT_IS_READ:
        setattr(args, flag[2:].replace("-", "_"), False if flag == "--mock-data" else None)


def machine_of(folder: Path) -> Machine:
    return Machine(False, 8, *[str(folder)] * 3, 600.0, 5.0)


def start(name: str, folder: Path) -> None:
    """A check, up to where it wants to see what a run left."""
    module, _, function = CHECKS[NUMBER[name]].function.partition(":")
    with suppress(Exception):
        list(getattr(importlib.import_module(module), function)(machine_of(folder)))


def assert_taken(job: Job) -> None:
    """Neither Megatron nor this package has anything against a job's flags."""
    words = expand_recipe([flag for flag in job.flags if not flag.startswith("--ledger=")])
    with in_environment(job), planned_args(words, job.num_ranks, GPUS["h100"]) as args:
        if "tests.gpu.unrefused_pretrain" in job.program:
            with pytest.raises(UserError) as refused:
                check_flags(args)
            assert job.program[-1] in str(refused.value)
        elif restart.FLAG in job.flags:
            with pytest.raises(UserError, match=f"^{restart.FLAG} numbers"):
                check_flags(args)
        else:
            check_flags(args)


@contextmanager
def in_environment(job: Job) -> Iterator[None]:
    """The job's variables over the planner's, which are those of most layouts."""
    validate = planner_flags.validate_args

    def validate_there(args: Any) -> None:
        with patch.dict("os.environ", job.environment):
            validate(args)

    with patch.object(planner_flags, "validate_args", validate_there):
        yield


# The demo has no flags of its own.
@pytest.mark.parametrize("name", [c.name for c in CHECKS if c.trains and c.name != "demo"])
def test_megatron_takes_the_flags(name: str, seen: list[Job], tmp_path: Path) -> None:
    start(name, tmp_path)
    assert seen
    # Of many layouts, which the tests have on gloo, some, and what is particular about a GPU.
    particular = sharded_by_fsdp(seen)
    for job in {id(job): job for job in (*seen[:: 1 + len(seen) // 20], *particular)}.values():
        assert_taken(job)


def test_layouts_run_as_the_tests_have_them(seen: list[Job], tmp_path: Path) -> None:
    """With the flags that a layout has of the method, at once, and in float32 that is no TF32."""
    start("layouts", tmp_path)
    by_name = {job.out.name: job for job in seen}
    assert by_name.keys() >= layouts.LAYOUTS.keys()
    for name, layout in layouts.LAYOUTS.items():
        assert set(layout.own_flags) <= set(by_name[name].flags), name
    assert "--tst-logits-chunk-size" in " ".join(by_name["heads-tp2-sp-chunks"].flags)
    precise = [job for job in seen if "--bf16" not in job.flags]
    assert len(precise) > len(layouts.LAYOUTS) // 2
    assert {job.environment["NVIDIA_TF32_OVERRIDE"] for job in precise} == {"0"}


def sharded_by_fsdp(jobs: list[Job]) -> list[Job]:
    return [job for job in jobs if {"--use-megatron-fsdp", "--use-torch-fsdp2"} & {*job.flags}]


def test_fsdp_has_several_queues(seen: list[Job], tmp_path: Path) -> None:
    """Whatever is set around it: Megatron's assertion is what this test sees."""
    start("fsdp", tmp_path)
    start("layouts", tmp_path)
    sharded = sharded_by_fsdp(seen)
    assert len(sharded) == 2
    for job in sharded:
        assert_taken(job)
        with pytest.raises(UserError, match="CUDA_DEVICE_MAX_CONNECTIONS"):
            assert_taken(replace(job, environment={}))


def test_megatron_takes_the_two_layers(seen: list[Job], tmp_path: Path) -> None:
    job = Job(tmp_path, resume.two_layers(machine_of(tmp_path)))
    assert_taken(job)


def test_what_is_tried_though_it_is_refused_is_refused(seen: list[Job], tmp_path: Path) -> None:
    start("overlaps", tmp_path)
    start("context-documents", tmp_path)
    lifted = [job.program[-1] for job in seen if "tests.gpu.unrefused_pretrain" in job.program]
    assert len(lifted) == 2
