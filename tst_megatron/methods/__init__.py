"""Ways to train for less, a folder each."""
