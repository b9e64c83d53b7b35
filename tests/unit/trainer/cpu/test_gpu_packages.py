"""What Megatron takes by importing it, and what of it a run on a CPU must not find."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

from tst_megatron.backends import DEVICE_VARIABLE
from tst_megatron.trainer.cpu.gpu_packages import HIDDEN, hide

MEGATRON = Path(find_spec("megatron.core").origin).parents[1]

LEFT_ALONE = {
    # A run of ten steps on a CPU trained beside each: 0.7.0 (which wrote its checkpoints, with
    # --async-save too), 0.47.0, 0.3.0 (as --optimizer muon) and cuda-core 1.2.2.
    *("nvidia_resiliency_ext", "modelopt", "emerging_optimizers", "cuda"),
    # No kernels: object stores, downloads, settings, measurements and logs.
    *("boto3", "multistorageclient", "wget", "einops", "omegaconf", "pynvml", "one_logger"),
    "wandb",
    # Of Megatron's repository, and not in its package.
    "megatron",
}

# In a process of its own: everything of Megatron's that training imports, and what it lacks.
IMPORT_ALL = """
import json, sys

lacking = {}

class Notes:
    def find_spec(self, name, path=None, target=None):
        frame = sys._getframe(1)
        while "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        lacking.setdefault(name.partition(".")[0], []).append(frame.f_code.co_filename)

from tst_megatron.backends import prepare_backend

prepare_backend()
sys.meta_path.append(Notes())
import megatron.training.training
import tst_megatron.trainer.pretrain
import tst_megatron.methods.superposition.model

print(json.dumps(lacking))
"""


def run_beside(folder: Path, *words: str) -> str:
    """Standard output of Python where each package is there and fails as it is imported.

    So do compiled parts that find no driver.
    """
    for name in HIDDEN:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise RuntimeError(f'{__name__} is loaded')")
    path = os.pathsep.join([str(folder), *sys.path])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *words],
        env=os.environ | {"PYTHONPATH": path, DEVICE_VARIABLE: "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_megatron_imports_beside_packages_that_do_not(tmp_path: Path) -> None:
    lacking = json.loads(run_beside(tmp_path, "-c", IMPORT_ALL).splitlines()[-1])
    of_megatron = {
        name for name, files in lacking.items() if any(str(MEGATRON) in file for file in files)
    }
    assert of_megatron <= LEFT_ALONE, (
        f"{of_megatron - LEFT_ALONE}: does it break a run on a CPU where it is installed?"
    )


def test_a_plan_is_made_beside_packages_that_do_not_import(tmp_path: Path) -> None:
    plan = ("-m", "tst_megatron", "plan", "--recipe", "smollm2-270m-tst+8xh100")
    assert "A checkpoint: " in run_beside(tmp_path, *plan)


@pytest.fixture(scope="module")
def imported_by_megatron() -> set[str]:
    found = re.compile(r"^\s*(?:import|from)\s+(\w+)", re.MULTILINE)
    return {name for file in MEGATRON.rglob("*.py") for name in found.findall(file.read_text())}


@pytest.mark.parametrize("name", HIDDEN)
def test_megatron_still_imports_what_is_hidden(name: str, imported_by_megatron: set[str]) -> None:
    assert name in imported_by_megatron, f"{name} need not be hidden any more"


def test_what_is_imported_already_stays_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    apex = ModuleType("apex")
    monkeypatch.setitem(sys.modules, "apex", apex)
    assert hide() == ("apex",)
    assert sys.modules["apex"] is apex
    with pytest.raises(ModuleNotFoundError, match="transformer_engine"):
        import transformer_engine.pytorch  # noqa: F401
    assert find_spec("transformer_engine") is None
