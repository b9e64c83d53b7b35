"""What a release has, and that nothing here makes one public."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "tst_megatron"
WORKFLOW = (REPOSITORY / ".github/workflows/release.yml").read_text()
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def test_a_wheel_has_every_file_of_the_package(tmp_path: Path) -> None:
    """Recipes, templates and tables are read from where the package is installed."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    there = {
        file.relative_to(REPOSITORY).as_posix()
        for file in PACKAGE.rglob("*")
        if file.is_file() and file.parent.name != "__pycache__"
    }
    assert packed == there
    assert {Path(name).suffix for name in packed} == {".py", ".yaml", ".json", ".j2", ".js"}


def test_the_workflow_builds_and_checks_and_does_not_publish() -> None:
    steps = [step for job in yaml.safe_load(WORKFLOW)["jobs"].values() for step in job["steps"]]
    commands = [step["run"] for step in steps if "run" in step]
    for wanted in ("build --no-isolation", "twine check --strict", "make docs"):
        assert any(wanted in command for command in commands), wanted
    assert not [one for one in commands if re.search(r"upload|publish|deploy", one)]
    assert not [step for step in steps if re.search("publish|release|pages", step.get("uses", ""))]
    assert not re.search(r"secrets\.|id-token|: write", WORKFLOW)


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
