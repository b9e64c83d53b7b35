"""A build that is killed at any moment, and run again, ends with the same bytes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sentencepiece import SentencePieceTrainer

KILLS = 25


def words(rng: random.Random, number: int) -> str:
    return " ".join("".join(rng.choices("abcdefgh", k=rng.randint(1, 9))) for _ in range(number))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    rng = random.Random(0)
    texts = [words(rng, rng.randint(1, 400)) for _ in range(3000)]
    for name, part in (("a", texts[:2000]), ("b", texts[2000:])):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in part)
        (folder / f"{name}.jsonl").write_text(lines)
    # Of a kind that only the slow library has, so that there is time to kill it.
    SentencePieceTrainer.train(
        sentence_iterator=iter(texts[:300]),
        model_prefix=str(folder / "slow"),
        model_type="unigram",
        vocab_size=400,
        byte_fallback=True,
        minloglevel=2,
    )
    return folder


def start(corpus: Path, output: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tst_megatron", "index", "build", str(corpus / "*.jsonl")]
    command += ["--tokenizer", str(corpus / "slow.model"), "--output", str(output)]
    command += ["--workers", "2", "--chunk-bytes", "50000"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(corpus: Path, output: Path) -> float:
    began = time.monotonic()
    process = start(corpus, output)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    return time.monotonic() - began


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def kill_alone(process: "subprocess.Popen[str]") -> None:
    """The builder dies, as when memory runs out; its workers find out themselves."""
    process.kill()


def kill_all(process: "subprocess.Popen[str]") -> None:
    """Builder and workers die in the same moment, as with their machine."""
    os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("kill", [kill_alone, kill_all])
def test_killed_at_random_moments(
    kill: Callable[["subprocess.Popen[str]"], None], corpus: Path, tmp_path: Path
) -> None:
    took = finish(corpus, tmp_path / "whole" / "c")
    whole = content(tmp_path / "whole")
    rng = random.Random()
    kills = 0
    while kills < KILLS:
        folder = tmp_path / "killed"
        process = start(corpus, folder / "c")
        time.sleep(rng.uniform(0.2, took))
        if process.poll() is None:
            kill(process)
            kills += 1
        process.communicate()
        for name, found in content(folder).items() if folder.exists() else ():
            if ".partial" not in name:
                assert found == whole[name], f"{name} is not whole"
        if (folder / "c.manifest.json").exists():
            # Done, kills notwithstanding: begin anew.
            finish(corpus, folder / "c")
            assert content(folder) == whole
            assert not list(folder.glob("*.partial")), "a folder is left"
            for path in sorted(folder.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
    finish(corpus, tmp_path / "killed" / "c")
    assert content(tmp_path / "killed") == whole
