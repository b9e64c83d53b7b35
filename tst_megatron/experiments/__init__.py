"""Many runs on one machine: a run is flags as words, its folder and its ledger."""
