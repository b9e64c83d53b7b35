"""The health check says what is there, and what is not."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tst_megatron import health
from tst_megatron.trainer.cpu.gpu_packages import HIDDEN


@pytest.fixture(autouse=True)
def nothing_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process of its own, in which nothing trains."""
    for name in HIDDEN:
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_versions_of_what_is_installed_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert health.main([]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["torch"].startswith(version("torch"))
    assert lines["torch"].endswith(" GPUs")
    assert lines["megatron-core"].startswith(version("megatron-core"))
    assert lines["tst-megatron"].startswith(version("tst-megatron"))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that modules are found in before all others."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_part_that_the_image_must_have_is_missed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "apex", None)
    assert health.main(["--require", "apex"]) == 1
    assert "health: apex does not import: " in capsys.readouterr().err
    assert health.main([]) == 0


def test_a_part_that_lacks_a_library_is_broken_and_not_missing(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (site / "apex.py").write_text("raise ImportError('libcudart.so.13: cannot open\\n shared')\n")
    assert health.main([]) == 1
    assert capsys.readouterr().err == (
        "health: apex does not import: ImportError: libcudart.so.13: cannot open shared\n"
    )


def test_a_module_that_lacks_another_is_broken_and_not_missing(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (site / "apex.py").write_text("import nowhere_to_be_found\n")
    assert health.main([]) == 1
    assert "apex does not import: No module named 'nowhere" in capsys.readouterr().err


def test_a_part_that_needs_a_gpu_is_not_hidden(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where an image is built there is no GPU, and Megatron imports behind the CPU backend."""
    (site / "apex.py").write_text("")
    assert health.main(["--require", "apex"]) == 0
    assert "apex                of a version that it does not say" in capsys.readouterr().out


def test_it_is_a_program(tmp_path: Path) -> None:
    """As the images run it; what torch cannot load ends it with 1."""
    (tmp_path / "torch.py").write_text("raise OSError('libnccl.so.2: version mismatch')\n")
    done = subprocess.run(
        [sys.executable, "-m", "tst_megatron.health"],
        env=os.environ
        | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(health.__file__).parents[1]}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "health: torch does not import: OSError: libnccl.so.2: version mismatch" in done.stderr
