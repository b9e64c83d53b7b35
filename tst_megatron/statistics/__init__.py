"""Intervals, smooth curves and power laws: arithmetic alone."""
