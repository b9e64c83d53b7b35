"""Which bag size and which share of the steps: a grid of whole runs, and what it says."""
