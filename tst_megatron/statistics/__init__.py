"""Intervals, smooth curves and power laws, the F test: arithmetic alone."""
