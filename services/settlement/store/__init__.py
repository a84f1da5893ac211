"""PostgreSQL behind settlement: writing what the log says, and reading it back."""
