"""What a user sees of an error, and of Ctrl-C."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tst_megatron.errors import UserError, user_errors_exit, was_interrupted


@pytest.fixture(autouse=True)
def hook_as_before() -> Iterator[None]:
    hook = sys.unraisablehook
    yield
    sys.unraisablehook = hook


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("no such file"), 2, "tst-megatron: error: no such file\n"),
        (KeyboardInterrupt(), 130, "tst-megatron: stopped by Ctrl-C\n"),
    ],
)
def test_one_sentence_and_an_exit_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped, user_errors_exit():
        raise error
    assert stopped.value.code == code
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("prints", ["print('text')", "print('text', flush=True)"])
def test_output_that_nobody_reads_is_no_error(prints: str) -> None:
    """As behind ``| head -1``: quiet, with the code that a shell gives it."""
    reader, writer = os.pipe()
    os.close(reader)
    lines = f"from tst_megatron.errors import user_errors_exit\nwith user_errors_exit(): {prints}"
    command = [sys.executable, "-c", lines]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_pipe_of_its_own_that_breaks_is_an_error() -> None:
    with pytest.raises(BrokenPipeError), user_errors_exit():
        raise BrokenPipeError


def fails_behind_ctrl_c() -> None:
    assert not was_interrupted()
    with suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert was_interrupted()
    raise RuntimeError("DataLoader worker exited unexpectedly")


def test_what_falls_over_behind_ctrl_c_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    """A data loader whose workers have ended hides the Ctrl-C that ended them, too."""
    with pytest.raises(SystemExit) as stopped, user_errors_exit():
        fails_behind_ctrl_c()
    assert stopped.value.code == 130
    assert capsys.readouterr().err == "tst-megatron: stopped by Ctrl-C\n"


class PressesCtrlC:
    """Where nothing can be raised."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


class Fails:
    """Likewise."""

    def __del__(self) -> None:
        raise ValueError("shown")


def test_a_ctrl_c_that_python_drops_is_remembered(capsys: pytest.CaptureFixture[str]) -> None:
    sys.unraisablehook = sys.__unraisablehook__
    with user_errors_exit():
        PressesCtrlC()
        assert was_interrupted()
        Fails()
    said = capsys.readouterr().err
    assert "KeyboardInterrupt" not in said
    assert "ValueError: shown" in said


def test_errors_of_ours_stay_and_so_do_others_answers() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError), user_errors_exit():
        raise RuntimeError
    assert signal.getsignal(signal.SIGINT) is before
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with user_errors_exit():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    signal.signal(signal.SIGINT, before)
