"""What only a GPU can tell, in one command: ``python -m tests.gpu``, or ``make test-gpu``.

The one idea: a check is a function that yields figures, each with its bound, and runs in a process
of its own with a time limit, so that whatever one of them meets on its first GPU, the others run
and the report has what was seen. With ``--dry-run`` the same functions run at tiny sizes on a CPU,
and say what a CPU cannot do of them.

It needs no network, and beside the project an image with torch 2.11 or newer and what
``make gpu-kit`` packs.
"""

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
REPOSITORY = TESTS.parent

# The tests' own helpers, by the names that the tests know them by.
for folder in (TESTS, TESTS / "parallel", TESTS / "unit/methods/superposition"):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
