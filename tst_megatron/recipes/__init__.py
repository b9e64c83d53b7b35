"""Whole training recipes, their reader and their commands."""
