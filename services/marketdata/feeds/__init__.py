"""External prices: several kinds of source behind one port (`feeds.port.Feed`)."""
