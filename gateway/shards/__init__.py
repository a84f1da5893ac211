"""Calls to services of which each engine shard has its own, behind one channel."""
