"""Two runs compared from their ledgers: at equal FLOPs and at equal loss."""
