"""Cut a command off as a user does, in the midst of training."""

import os
import signal
import subprocess
import time
from collections.abc import Callable

_TRAINING_S, _STOPPING_S = 400, 200


def interrupt_when(
    reached: Callable[[], bool], running: "subprocess.Popen[str]", whole_group: bool = False
) -> None:
    """Press Ctrl-C once a run has got so far; the command ends as one that was cut off."""
    deadline = time.monotonic() + _TRAINING_S
    while not reached():
        assert running.poll() is None, running.stdout and running.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    if whole_group:
        os.killpg(running.pid, signal.SIGINT)
    else:
        running.send_signal(signal.SIGINT)
    said, _ = running.communicate(timeout=_STOPPING_S)
    assert running.returncode == 130, said
    assert "Traceback" not in (said or "")
