"""Chains of runs: one training in links, of which each goes on from the one before."""
