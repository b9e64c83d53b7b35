"""A package, so that ``python -m tests.gpu`` is never another one that an image has installed."""
