"""Pack the kit: ``python -m tests.gpu.kit.build --uv UV``.

The steps: the project as it is committed, pinned packages without those of `image.txt`,
Transformer Engine with the parts that were built for one torch and one kind of card, and two small
corpora; then one archive, which is refused if it is too large to travel.
"""

import argparse
import lzma
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import zstandard

from tests.gpu import REPOSITORY
from tests.gpu import text as texts
from tests.gpu.environment import COMMIT_FILE, commit
from tests.gpu.kit.paths import FOR_TORCH, TRANSFORMER_ENGINE

NAME = "tst-megatron-gpu-kit"
MOST_BYTES = 60 * 2**20
_PROJECT = (
    *("tst_megatron", "tests", "benchmarks", "pyproject.toml", "LICENSE"),
    *("README.md", "docs/gpu.md"),  # What `python -m tests.gpu.page` writes.
)
_HERE = Path(__file__).parent
# What `shared/wheels` has beside: for torch 2.11 and compute capability 9.0.
_TORCH, _CAPABILITY, _FOLDER = "2.11", "9.0", "torch-2.11"
_LIBRARY = "libtransformer_engine.so"
_CUT_LIBRARY = "libtransformer_engine.sm90.so.zst"
_WHEEL = "transformer_engine_torch-*-cp312-cp312-linux_x86_64.whl"
_PINS = ("requirements/run.txt", "requirements/te.txt")
# torch and what it brings have other names everywhere.
_OF_TORCH = re.compile(r"(torch|triton|cuda-.*|nvidia-.*)$")
# Large, and for what no check does: reading .zst files, and indexing in a hundredth of the time.
_SPARED = ("zstandard", "gigatoken", "awkward", "awkward-cpp")
_MEGABYTES = 60.0
# Of the text, what a run reads: not the documents that the index was made of.
_NOT_READ = {".jsonl"}


def main(argv: Sequence[str] | None = None) -> int:
    """Make it; returns 1 where it is too large."""
    flags = _parse(argv)
    work, kit = flags.work.resolve(), flags.work.resolve() / NAME
    shutil.rmtree(kit, ignore_errors=True)
    _project(kit / "project")
    _packages(kit / "packages", flags.uv)
    said = _transformer_engine(kit / "packages" / TRANSFORMER_ENGINE, flags.wheels, flags.uv)
    _text(kit / "text", work / "text", flags.megabytes)
    shutil.copy(_HERE / "run.sh", kit / "run.sh")
    size = _pack(kit, flags.out)
    print(f"{flags.out}: {size / 2**20:.1f} MiB, {said}")
    if size > MOST_BYTES:
        print(f"more than {MOST_BYTES // 2**20} MiB: lower --megabytes", file=sys.stderr)
        return 1
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.kit.build", description=__doc__)
    parser.add_argument("--uv", default="uv", help="the uv that fetches packages")
    parser.add_argument(
        "--wheels", type=Path, default=Path("../shared/wheels"),
        help=f"folder in which {_FOLDER}/ has Transformer Engine's compiled parts",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path(f"runs/gpu/{NAME}.tar.xz"))
    parser.add_argument(
        "--work", type=Path, default=Path("runs/gpu/kit"), help="folder, kept between calls"
    )
    parser.add_argument(
        "--megabytes", type=float, default=_MEGABYTES, help="of text in the large corpus, at most"
    )
    return parser.parse_args(argv)


def _project(folder: Path) -> None:
    """The files that git knows, as they lie here, and the commit."""
    words = ("git", "-C", str(REPOSITORY), "ls-files", "-z", "--", *_PROJECT)
    names = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, target)
    (folder / COMMIT_FILE).write_text(f"{commit()}\n")


def pins() -> dict[str, str]:
    """Every pinned package's requirement with its hashes, without those of the image and torch."""
    image = {line for line in (_HERE / "image.txt").read_text().splitlines() if line[:1] != "#"}
    found = {}
    for block in _blocks():
        name = block.partition("==")[0].strip()
        if name not in {*image, *_SPARED} and not _OF_TORCH.match(name):
            found[name] = block
    return found


def _blocks() -> list[str]:
    """Requirements of running, each with the lines of its hashes."""
    text = (REPOSITORY / _PINS[0]).read_text()
    return re.findall(r"^[a-z0-9-]+==(?:[^\n]*\\\n)*[^\n]*", text, re.MULTILINE)


def _packages(folder: Path, uv: str) -> None:
    for name, block in pins().items():
        _install(folder / name, block, uv)


def _install(folder: Path, requirement: str, uv: str) -> None:
    """Unpack a wheel of a pinned requirement, for the machines that a kit is for."""
    folder.mkdir(parents=True, exist_ok=True)
    pinned = folder / "pinned.txt"
    pinned.write_text(f"{requirement}\n")
    subprocess.run(
        [
            *(uv, "pip", "install", "--quiet", "--no-deps", "--require-hashes"),
            *("--only-binary", ":all:", "--python-version", "3.12"),
            *("--python-platform", "x86_64-manylinux_2_28", "--target", str(folder)),
            *("--requirement", str(pinned)),
        ],
        check=True,
    )
    pinned.unlink()


def _transformer_engine(folder: Path, wheels: Path, uv: str) -> str:
    """Its Python part, its small files, and the compiled parts for one torch and one capability."""
    parts = wheels / _FOLDER
    if not (parts / _CUT_LIBRARY).exists():
        return f"without Transformer Engine: {parts} has no {_CUT_LIBRARY}"
    text = (REPOSITORY / _PINS[1]).read_text()
    for name in ("transformer-engine", "transformer-engine-cu13"):
        block = re.search(rf"^{name}==(?:[^\n]*\\\n)*[^\n]*", text, re.MULTILINE)
        assert block, f"{_PINS[1]} pins no {name}"
        _install(folder, block.group(), uv)
    (wheel,) = parts.glob(_WHEEL)
    shutil.unpack_archive(wheel, folder, "zip")
    library = next(folder.rglob(_LIBRARY))
    library.unlink()  # Perhaps uv's own copy, under another name.
    with (parts / _CUT_LIBRARY).open("rb") as packed, library.open("wb") as whole:
        zstandard.ZstdDecompressor().copy_stream(packed, whole)
    (folder / FOR_TORCH).write_text(f"{_TORCH} {_CAPABILITY}\n")
    return f"with Transformer Engine for torch {_TORCH} and compute capability {_CAPABILITY}"


def _text(folder: Path, made: Path, megabytes: float) -> None:
    texts.main([str(made), f"--megabytes={megabytes}"])
    for path in made.rglob("*"):
        if path.is_file() and path.suffix not in _NOT_READ and "cache" not in path.parts:
            target = folder / path.relative_to(made)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)


def _pack(kit: Path, out: Path) -> int:
    """Write the archive, whole; returns its bytes."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.partial")
    with (
        lzma.open(partial, "wb", preset=6) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        archive.add(kit, kit.name, filter=_plain)
    partial.replace(out)
    return out.stat().st_size


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Nobody's in particular, and nothing that the machine makes for itself."""
    if "__pycache__" in entry.name or entry.name.endswith((".pyc", "/bin")):
        return None
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    sys.exit(main())
