"""The passwords that stolen databases are full of, in the form that `check_password` compares.

The list is that of Django's password validation (BSD licence), some 20,000 in all: those that are
long enough for our rules as they are, and of all others what is left without digits and signs at
both ends.
"""

from __future__ import annotations

from importlib import resources


def load_common_passwords() -> frozenset[str]:
    """All of them."""
    file = resources.files(__package__).joinpath("common_passwords.txt")
    return frozenset(file.read_text("utf-8").split())
