"""Helpers of this folder, importable from its tests, and whether Transformer Engine has to be here.

``make test-te`` sets ``TST_MEGATRON_NEEDS_TE``: there, a test that lacks it fails.
"""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def transformer_engine() -> None:
    """Skip without Transformer Engine, where nobody promised it."""
    if importlib.util.find_spec("transformer_engine") is None:
        message = "needs Transformer Engine: make test-te runs this in an environment that has it"
        if os.environ.get("TST_MEGATRON_NEEDS_TE"):
            pytest.fail(message)
        pytest.skip(message)
