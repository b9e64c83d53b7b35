"""Mixture of depths: blocks that work on the tokens which their routers pick (arXiv 2404.02258)."""
