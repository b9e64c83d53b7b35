"""Proxy compression: training on text in two forms, compressed and as bytes."""
