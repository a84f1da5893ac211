"""Settlement against real servers: ledger, history, transfers, and the proof that all add up."""
