"""Market data: the external feed, and books, trades, tickers and candles made from the log."""
