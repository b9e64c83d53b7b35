"""The commands of chains, a module each."""
