"""The compose file gives one node's training what it needs from the host."""

import re
from typing import Any

import pytest
import yaml
from dockerfile import read
from trainer import REPOSITORY

FOLDER = REPOSITORY / "docker"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def train(compose: dict[str, Any]) -> dict[str, Any]:
    return compose["services"]["train"]


def test_images_are_built_from_the_repository(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        context = FOLDER / service["build"]["context"]
        assert context.resolve() == REPOSITORY
        assert (context / service["build"]["dockerfile"]).is_file()


def test_every_service_has_the_gpus_and_no_root(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        (devices,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert devices == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
        # The user of the image, unless the one that starts it says otherwise.
        assert service["user"] == "${OWNER:-10001:10001}"
        assert "privileged" not in service
    assert read(FOLDER / "Dockerfile.gpu")[-1].all("USER")[0].text == "10001"


def test_training_has_memory_to_share_and_its_limits_lifted(train: dict[str, Any]) -> None:
    assert train["shm_size"] == "64gb"
    assert train["ulimits"]["memlock"] == -1
    assert train["ulimits"]["stack"] == 64 * 1024 * 1024
    assert train["ulimits"]["nofile"]["soft"] >= 65536
    assert train["init"] is True


def test_whatever_is_written_lies_on_a_volume(train: dict[str, Any]) -> None:
    mounted = {volume.rsplit("}:")[-1].split(":")[0] for volume in train["volumes"]}
    assert mounted == {"/data", "/run/tst", "/cache"}
    assert any(volume.endswith("/data:ro") for volume in train["volumes"])
    for word in train["entrypoint"]:
        if re.match(r"--(save|load|log-dir|tensorboard-dir|data-cache-path)=", word):
            folder = word.partition("=")[2]
            assert any(folder == place or folder.startswith(f"{place}/") for place in mounted)


def test_what_has_no_default_is_asked_for(train: dict[str, Any]) -> None:
    text = (FOLDER / "compose.yaml").read_text()
    for name in ("DATA", "RUN", "CACHE"):
        assert f"${{{name}:?" in text
    assert not re.search(r"\$\{\w+\}", text)


def test_the_command_line_is_the_user_s_own(train: dict[str, Any]) -> None:
    assert train["command"] == []
    assert not [word for word in train["entrypoint"] if word.startswith("--recipe")]


def test_no_secret_is_written_down(train: dict[str, Any]) -> None:
    assert not [name for name in train["environment"] if re.search("TOKEN|KEY|PASS|SECRET", name)]
