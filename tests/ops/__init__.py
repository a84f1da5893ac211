"""Tests of the command, the supervisor and the embedded servers."""
