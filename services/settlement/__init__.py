"""Settlement: the financial authority. Ledger, history, transfers, archive and reconciliation."""
