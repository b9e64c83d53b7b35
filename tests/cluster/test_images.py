"""The images' lines run, as root of a clean Debian, where there is no Docker to run them.

The base images are stood in for: Debian by debootstrap, and in it this machine's Python where the
Python image has its own. NVIDIA's is that with packages named as its own, which can be imported and
do nothing. So what is tested is every line of ours, and nothing of theirs.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dockerfile import Instruction, Stage, read
from trainer import REPOSITORY

pytestmark = pytest.mark.large

SUITE = "bookworm"
# What a Python is linked with, of Debian's.
LIBRARIES = (
    *("ca-certificates", "libbz2-1.0", "libffi8", "liblzma5", "libncursesw6", "libreadline8"),
    *("libsqlite3-0", "libssl3", "libuuid1", "zlib1g", "libexpat1"),
)
# What reaches a package registry from here, if anything but a name server is needed.
NETWORK = ("PROXY", "SSL_CERT", "CA_BUNDLE", "INDEX_URL")
# That of `make setup`: what it downloaded is not downloaded again.
UV_CACHE = Path(os.environ.get("UV_CACHE_DIR", Path.home() / ".cache/uv"))
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
OF_THE_BASE = {"torch": "2.13.0a0+nv26.7", "triton": "3.7.1", "apex": "0.1"} | {
    "transformer_engine": "2.17.0"
}


class Image:
    """A root folder, and what a builder remembers while it goes through a Dockerfile."""

    def __init__(self, root: Path, others: dict[str, "Image"]) -> None:
        self.root = root
        self.environment = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
        self.folder = "/"
        self.user = 0
        self._others = others
        self._shell = ["/bin/sh", "-c"]

    def build(self, stage: Stage) -> None:
        for one in stage.instructions:
            match one.name:
                case "RUN":
                    self.run(*self._shell, one.command, mounts=one.options)
                case "SHELL":
                    self._shell = json.loads(one.text)
                case "ENV":
                    for word in one.words:
                        name, _, value = word.partition("=")
                        self.environment[name] = value.replace("$PATH", self.environment["PATH"])
                case "WORKDIR":
                    self.folder = one.text
                    self._inside(one.text).mkdir(parents=True, exist_ok=True)
                case "USER":
                    self.user = int(one.text)
                case "COPY":
                    self._copy(one)

    def run(
        self, *command: str, mounts: list[dict[str, str]] | None = None, check: bool = True
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command in the image; mounts are this command's alone, as the builder's are."""
        binds = ["mount -t proc proc proc", "mount --rbind /dev dev"]
        for mount in mounts or []:
            target = self._inside(mount["target"])
            if mount["type"] == "cache":
                source = UV_CACHE
                source.mkdir(parents=True, exist_ok=True)
            else:
                source = self._others[mount["from"]]._inside(mount["source"])
            if source.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.touch()
            binds.append(shlex.join(["mount", "--bind", str(source), str(target)]))
        chroot = ["chroot", f"--userspec={self.user}:{self.user}", ".", "env", "-i"]
        values = [f"{name}={value}" for name, value in self._environment().items()]
        inside = ["sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", self.folder, *command]
        script = " && ".join([*binds, f"exec {shlex.join([*chroot, *values, *inside])}"])
        done = subprocess.run(
            # The mounts are gone with the command, whatever becomes of it.
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script],
            cwd=self.root,
            capture_output=True,
            text=True,
        )
        if check:
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done

    def _environment(self) -> dict[str, str]:
        passed = {
            name: value
            for name, value in os.environ.items()
            if any(part in name.upper() for part in NETWORK)
        }
        return passed | {"HOME": "/root" if self.user == 0 else "/tmp"} | self.environment

    def _inside(self, path: str) -> Path:
        return self.root / str(Path(self.folder) / path).lstrip("/")

    def _copy(self, one: Instruction) -> None:
        *sources, target = one.words
        to = self._inside(target)
        for source in sources:
            # What the repository holds is what a builder finds in a clean clone.
            listed = subprocess.run(
                ["git", "ls-files", "--cached", "--others", "--exclude-standard", source],
                cwd=REPOSITORY,
                capture_output=True,
                text=True,
                check=True,
            )
            for name in listed.stdout.splitlines():
                inner = Path(name).relative_to(source) if (REPOSITORY / source).is_dir() else None
                into = to / Path(name).name if inner is None else to / inner
                if not target.endswith(("/", ".")) and inner is None:
                    into = to
                into.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(REPOSITORY / name, into)


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean Debian with this machine's Python in /usr/local."""
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        pytest.skip("needs root and debootstrap")
    root = tmp_path_factory.mktemp("debian")
    root.chmod(0o755)  # It is what / is to every user of the images.
    made = subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={','.join(LIBRARIES)}", SUITE, str(root)],
        capture_output=True,
        text=True,
    )
    if made.returncode:
        pytest.skip(f"debootstrap reaches no mirror: {made.stdout[-500:]}{made.stderr[-500:]}")
    python = Path(sys.base_prefix)
    if python.name == "usr":
        pytest.skip("this Python is the machine's own, which cannot be copied")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for folder in ("bin", "include", "lib"):
        shutil.copytree(
            python / folder,
            root / "usr/local" / folder,
            symlinks=True,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("site-packages", "__pycache__", "test", "*.a"),
        )
    (root / "usr/local/lib" / version / "site-packages").mkdir()
    for name in ("python", "python3"):
        (root / "usr/local/bin" / name).unlink(missing_ok=True)
        (root / "usr/local/bin" / name).symlink_to(version)
    for file in (CERTIFICATES, Path("/etc/resolv.conf")):
        shutil.copy(file, root / file.relative_to("/"))
    image = Image(root, {})
    image.run("ldconfig")
    tried = image.run("python3", "-c", "import bz2, ctypes, lzma, sqlite3, ssl, zlib", check=False)
    if tried.returncode:
        pytest.skip(f"this Python does not run in Debian {SUITE}: {tried.stderr[-300:]}")
    image.run("python3", "-m", "ensurepip")
    return root


@pytest.fixture
def copies(debian: Path, tmp_path: Path) -> Iterator["Copies"]:
    yield Copies(debian, tmp_path)
    shutil.rmtree(tmp_path)


class Copies:
    """Images from the one Debian, each in a folder of its own."""

    def __init__(self, debian: Path, folder: Path) -> None:
        self._debian = debian
        self._folder = folder
        self.images: dict[str, Image] = {}

    def make(self, name: str) -> Image:
        root = self._folder / name
        # Hard links would let one image write into another.
        subprocess.run(["cp", "--archive", "--reflink=auto", self._debian, root], check=True)
        image = self.images[name] = Image(root, self.images)
        return image


def health_check(stage: Stage) -> list[str]:
    (check,) = stage.all("HEALTHCHECK")
    return json.loads(check.command.removeprefix("CMD "))


def test_the_cpu_image(copies: Copies) -> None:
    (stage,) = read(REPOSITORY / "docker/Dockerfile.cpu")
    image = copies.make("cpu")
    image.build(stage)

    health = image.run(*health_check(stage))
    lines = dict(line.split(maxsplit=1) for line in health.stdout.splitlines())
    assert lines["torch"].startswith("2.13.0 ")
    assert lines["megatron-core"].startswith("0.19.2")
    tests = image.run("make", "test", "TEST_FLAGS=tests/cluster/test_dockerfiles.py")
    assert " passed" in tests.stdout
    # Nobody in particular, as docker run --user.
    image.user = 4321
    image.run("tst-megatron", "recipe", "list")
    assert not list((image.root / "var/lib/apt/lists").glob("*Packages*"))


def test_the_gpu_image(copies: Copies) -> None:
    first, last = read(REPOSITORY / "docker/Dockerfile.gpu")
    copies.make(first.name).build(first)
    image = copies.make("gpu")
    site = next((image.root / "usr/local/lib").glob("python3.*/site-packages"))
    for name, version in OF_THE_BASE.items():
        (site / name).mkdir()
        (site / name / "__init__.py").write_text(f"__version__ = {version!r}\n")
        info = site / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (site / "torch/distributed").mkdir()
    (site / "torch/distributed/__init__.py").touch()
    (site / "torch/distributed/run.py").write_text(
        "import sys\ndef main(): print(sys.executable, *sys.argv[1:])\n"
    )
    before = snapshot(site)
    image.build(last)

    # NVIDIA's are as they were, to the byte, and are what the environment imports.
    assert snapshot(site) == before
    for name in OF_THE_BASE:
        found = image.run("python", "-c", f"import {name}; print({name}.__file__)").stdout
        assert found == f"/{(site / name / '__init__.py').relative_to(image.root)}\n"
    ours = [path.name for path in (image.root / "opt/tst/lib").glob("python*/site-packages/*")]
    assert not [name for name in ours if name.lower().startswith((*OF_THE_BASE, "nvidia"))]
    listed = image.run("tst-megatron", "recipe", "list").stdout.split()
    assert "tiny" in listed
    # torchrun is the environment's, and so are its workers.
    assert image.run("torchrun", "--help").stdout.split()[0] == "/opt/tst/bin/python"


def snapshot(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.suffix != ".pyc" and path.is_file())
    return {str(path): path.read_bytes() for path in files}
