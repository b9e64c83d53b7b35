"""Linters that come with the development environment, and are no Python packages to import."""

import os
import shutil
import sys
from pathlib import Path


def installed(name: str) -> str | None:
    """Where a linter is: in this environment, else on the machine."""
    places = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    return shutil.which(name, path=os.pathsep.join(places))
