"""Experts that do nothing, among which a router chooses (arXiv 2404.02258, section on MoDE)."""
