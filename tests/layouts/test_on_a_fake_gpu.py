"""Runs `fake_gpu_checks` where the CPU backend was never installed."""

import subprocess
import sys
from pathlib import Path


def test_nothing_trips_over_a_gpu() -> None:
    checks = Path(__file__).with_name("fake_gpu_checks.py")
    # Without the conftest files, which install the CPU backend.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "pytest", "--noconftest", str(checks)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
