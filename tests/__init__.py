"""Tidebook's tests."""
