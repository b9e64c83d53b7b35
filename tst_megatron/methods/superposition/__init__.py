"""Token superposition (arXiv 2605.06546): bags in, the next bag out, then ordinary training."""
