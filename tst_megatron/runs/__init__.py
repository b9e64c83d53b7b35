"""What a run leaves: its ledger, and other logs brought in."""
