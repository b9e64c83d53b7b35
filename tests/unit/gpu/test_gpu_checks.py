"""What checks make of what they see, where no GPU is needed to see it."""

import logging
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trainer import Job, Result

from tests.gpu import against_cpu, profiler
from tests.gpu.clocks import timed_steps
from tests.gpu.figures import Figure
from tests.gpu.jobs import JobFailedError, other_losses, reason, run_all
from tests.gpu.loss import _default
from tests.gpu.machine import Machine
from tests.gpu.recipe_3b import Planned, _planned
from tst_megatron.methods.superposition.logit_passes import default_on
from tst_megatron.recipes import expand_recipe


def machine_of(folder: Path, dry_run: bool = False, limit_s: float = 600.0) -> Machine:
    return Machine(dry_run, 2, *[str(folder)] * 3, limit_s, 5.0)


def test_a_gpus_default_that_is_not_the_kernel_is_a_missed_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = "tst_megatron.methods.superposition.logit_passes.default_on"
    for chosen, is_met in (("kernel", True), ("compiled", False)):
        monkeypatch.setattr(path, lambda device, chosen=chosen: chosen)
        assert _default(machine_of(tmp_path)).is_met == is_met


def test_a_run_that_says_that_its_loss_is_not_the_kernel_misses_a_figure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither runs here, and the sentence is the one that a run's log has."""
    default_on.cache_clear()
    with caplog.at_level(logging.WARNING):
        default_on(torch.device("cuda", 0))
    default_on.cache_clear()
    (line,) = [record.getMessage() for record in caplog.records]
    assert not other_losses("a run", Result(0, f"step 1\n{line}\nstep 2", Path())).is_met
    assert other_losses("a run", Result(0, "step 1\nstep 2", Path())).is_met


def test_what_the_profiler_does_itself_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU it waits as it ends, whatever is in it."""

    @contextmanager
    def profile(activities: Any) -> Iterator[Any]:
        names = ["start"]
        monkeypatch.setattr(profiler, "_now", names, raising=False)
        yield SimpleNamespace(events=lambda: [SimpleNamespace(name=name) for name in names])
        names.append("cudaDeviceSynchronize")

    def work() -> None:
        profiler._now.extend(["cudaLaunchKernel", "cudaDeviceSynchronize", "cudaLaunchKernel"])

    monkeypatch.setattr("torch.profiler.profile", profile)
    monkeypatch.setattr("torch.cuda.synchronize", lambda: None)
    assert profiler.profiled(work, on_gpu=True) == {
        "cudaLaunchKernel": 2,
        "cudaDeviceSynchronize": 1,
    }


def test_the_step_after_a_validation_is_not_timed() -> None:
    ledger: Any = SimpleNamespace(
        steps=[{"step": step} for step in range(1, 21)],
        validations=[{"step": 10}, {"step": 15}, {"step": 20}],
    )
    assert [line["step"] for line in timed_steps(ledger)] == [12, 13, 14, 15, 17, 18, 19, 20]


@pytest.mark.parametrize(("of_stock", "is_met"), [(1.0, False), (2.0, None)])
def test_bit_for_bit_is_asked_where_stock_is_so_with_itself(of_stock: float, is_met: Any) -> None:
    seen = {"stock": 1.0, "ours": 3.0, "stock again": of_stock}
    scalars = {name: {("lm loss", 1): value} for name, value in seen.items()}
    figures = against_cpu._held_against(scalars, ["stock again"])
    (judged,) = [f for f in figures if isinstance(f, Figure) and f.what.endswith("from them")]
    assert judged.is_met is is_met


def test_a_whole_step_is_held_against_the_utilisation_of_whole_steps() -> None:
    flags = ["--recipe", "smollm3-3b-tst+8xh100"]
    planned: Planned = _planned(expand_recipe(flags), "h100")
    # 3.4 M positions a step at 6 operations a weight and more, on eight H100.
    assert planned.mfu == 0.40
    assert planned.step_at_mfu > 1.2 * planned.step_of_products


class Started:
    """A process of torchrun, of which one ends when it is ended and no sooner."""

    def __init__(self, words: Any, **named: Any) -> None:
        self._hangs, self.returncode = any("hangs" in word for word in words), 0
        named["stdout"].write(b"started\n")

    def wait(self, timeout: float | None = None) -> int:
        if self._hangs and timeout is not None:
            raise subprocess.TimeoutExpired("torchrun", timeout)
        self.returncode = -9 if self._hangs else 0
        return self.returncode


def test_of_jobs_side_by_side_one_that_hangs_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The results of the others are not lost."""
    monkeypatch.setattr("tests.gpu.jobs.subprocess.Popen", Started)
    ended = SimpleNamespace(end=lambda timeout_s: None)
    monkeypatch.setattr("tests.gpu.jobs.Process", lambda *args: ended)
    jobs = [Job(tmp_path / name, (), 1, (f"{name}.py",)) for name in ("hangs", "ends")]
    hangs, ends = run_all(machine_of(tmp_path), jobs, check=False)
    assert (hangs.code, ends.code) == (-9, 0)
    assert ends.output == "started\n"
    assert reason(hangs.output) == "TimeoutError: hangs took longer than there was time"
    with pytest.raises(JobFailedError, match="hangs took longer"):
        run_all(machine_of(tmp_path), jobs[:1])
