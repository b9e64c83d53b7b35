"""Checkpoints on disk: what they are, whether they are whole, and how they differ."""
