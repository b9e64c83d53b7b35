"""Modules beside the tests, whatever the import mode; spawned processes inherit it."""

import sys
from pathlib import Path

# For `reference` and `split_worker`.
sys.path.insert(0, str(Path(__file__).parent))
