"""What of the kit is used on a machine, and what goes into it."""

import sys
from pathlib import Path

import pytest

from tests.gpu.kit import build, paths


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for package in ("megatron-core", "numpy", "not-installed-anywhere", paths.TRANSFORMER_ENGINE):
        (tmp_path / "packages" / package).mkdir(parents=True)
    (tmp_path / "packages" / paths.TRANSFORMER_ENGINE / paths.FOR_TORCH).write_text("2.11 9.0\n")
    monkeypatch.setattr(paths, "_does_not_import", lambda folders: "")
    return tmp_path


def used(kit: Path) -> list[str]:
    return [folder.name for folder in paths.needed(kit)[0]]


def versions(monkeypatch: pytest.MonkeyPatch, **installed: str) -> None:
    def version(package: str) -> str:
        found = {name.replace("_", "-"): value for name, value in installed.items()}
        if package not in found:
            raise paths.PackageNotFoundError(package)
        return found[package]

    monkeypatch.setattr(paths, "version", version)


def test_the_images_own_packages_come_first(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, numpy="2", torch="2.11.0+cu130", megatron_core="0.15")
    assert used(kit) == [
        *("project", "megatron-core", "not-installed-anywhere", paths.TRANSFORMER_ENGINE)
    ]


@pytest.mark.parametrize(
    ("installed", "why"),
    [
        ({"torch": "2.13.0"}, "built for torch 2.11, and this is 2.13.0"),
        ({"torch": "2.11.0", "transformer_engine": "2.1"}, "the image has its own"),
    ],
)
def test_parts_for_another_torch_are_not_used(
    installed: dict[str, str], why: str, kit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions(monkeypatch, **installed)
    folders, said = paths.needed(kit)
    assert paths.TRANSFORMER_ENGINE not in {folder.name for folder in folders}
    assert why in said[0]


def test_parts_that_do_not_import_are_not_used(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Megatron would not import beside them either."""
    versions(monkeypatch, torch="2.11.0")
    monkeypatch.setattr(paths, "_does_not_import", lambda folders: "OSError: no such symbol")
    folders, said = paths.needed(kit)
    assert paths.TRANSFORMER_ENGINE not in {folder.name for folder in folders}
    assert said == [
        "Transformer Engine of the kit is not used: it does not import: OSError: no such symbol"
    ]


def test_an_image_that_lacks_packages_is_told_which(
    kit: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(paths, "_PYTHON", sys.version_info[:2])
    own = {name.replace("-", "_"): "1" for name in paths._OF_THE_IMAGE}
    versions(monkeypatch, **own | {"torch": "2.11.0"})
    assert paths.main(kit) == 0
    del own["psutil"], own["rich"]
    versions(monkeypatch, **own)
    capsys.readouterr()
    assert paths.main(kit) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("kit: this image lacks psutil, rich: ")
    monkeypatch.setattr(paths, "_PYTHON", (2, 7))
    assert paths.main(kit) == 2
    assert "are for Python 2.7" in capsys.readouterr().err


def test_what_is_packed_is_pinned_and_not_the_images() -> None:
    pins = build.pins()
    assert {"megatron-core", "orjson", "plotly", "pydantic"} <= pins.keys()
    assert not {"torch", "triton", "numpy", "transformers", "nvidia-nccl-cu13"} & pins.keys()
    for name, block in pins.items():
        assert block.startswith(f"{name}==")
        assert "--hash=sha256:" in block
