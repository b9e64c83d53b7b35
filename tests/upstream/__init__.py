"""Another Megatron, tried: what of it we rely on has moved, and which tests fail with it.

``python -m tests.upstream PATH|VERSION`` lays it over the installed one, in a folder of its own:
the environment stays as it is, and so does torch.
"""

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
