"""A method's settings searched: a grid of whole runs, and which to take."""
