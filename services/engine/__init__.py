"""The engine: order books, balances, and the log that everything else follows."""

from services.engine import compiled

compiled.use_if_told()
