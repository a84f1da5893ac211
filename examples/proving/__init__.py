"""How `first_trade.py` proves what it says: exact checks, mirrored streams, the books."""
