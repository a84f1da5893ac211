"""Pure market data: books, candles, tickers and prices. No I/O, no clock, no randomness."""
