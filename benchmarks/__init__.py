"""What superposition costs, as ratios against Megatron's own code and the paper's: ``make bench``.

Every row compares two pieces of work on the same inputs, timed in turns in one process, so that a
slow moment of the machine falls on both.
"""
