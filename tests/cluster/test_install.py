"""What README says of installing is what the package asks for."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from trainer import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
README = (REPOSITORY / "README.md").read_text()
PINS = dict(
    re.findall(
        r"^([\w-]+)==(\S+)$",
        "\n".join(
            (REPOSITORY / "requirements" / file).read_text() for file in ("pins.in", "te.in")
        ),
        re.MULTILINE,
    )
)


def row(name: str) -> str:
    """Of README's table of versions."""
    return next(line for line in README.splitlines() if line.startswith(f"| {name} | "))


@pytest.mark.parametrize(
    ("name", "package"),
    [
        *(("torch", "torch"), ("megatron-core", "megatron-core")),
        ("Transformer Engine", "transformer-engine"),
    ],
)
def test_its_versions_are_those_of_the_package(name: str, package: str) -> None:
    asked_for = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["gpu"]]
    (requirement,) = [one for one in map(Requirement, asked_for) if one.name == package]
    words = {">=": "{} or newer", "<": "below {}"}
    for specifier in requirement.specifier:
        assert words[specifier.operator].format(specifier.version) in row(name)
    assert PINS[package] in row(name)


def test_its_python_is_that_of_the_package() -> None:
    assert f"{PROJECT['requires-python'].removeprefix('>=')} or newer" in row("Python")


@pytest.fixture
def torch() -> Requirement:
    """What the package asks for."""
    (asked,) = [one for one in map(Requirement, PROJECT["dependencies"]) if one.name == "torch"]
    return asked


def test_an_nvidia_container_s_torch_may_be_none_to_pip(torch: Requirement) -> None:
    """Which is why it has a way of its own there."""
    assert "one that is called `2.11.0a0+...`" in README
    assert not torch.specifier.contains("2.11.0a0+nv", prereleases=True)


def test_the_oldest_torch_is_the_one_that_is_tested(torch: Requirement) -> None:
    (oldest,) = (one.version for one in torch.specifier if one.operator == ">=")
    floor = (REPOSITORY / "requirements" / "floor.txt").read_text()
    (tested,) = re.findall(r"^torch==(\S+)", floor, re.MULTILINE)
    assert tested.startswith(f"{oldest}.")
    assert f"on {tested} the tests of `make test-torch-floor` pass" in README
