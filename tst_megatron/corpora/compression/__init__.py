"""Text as ids that a compressor gives: windows of equal information, and those held against them.

Training over neurally compressed text (Lester et al., arXiv 2404.03626).
"""
