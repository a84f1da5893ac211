"""One-time codes: six digits, of which only a keyed hash is kept.

A million codes are soon tried without the key, hence a keyed hash; and soon tried by asking, hence
the attempt limit that the store enforces in the same statement that spends the code.
"""

from __future__ import annotations

import secrets

from services.auth.domain.model import Address, Purpose
from services.auth.vault import Vault

DIGITS = 6
_VAULT_PURPOSE = "one-time-code"


class Codes:
    """Makes codes and their hashes."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def new(self) -> str:
        """A random code, such as "042917"."""
        return f"{secrets.randbelow(10**DIGITS):0{DIGITS}}"

    def hash(self, address: Address, purpose: Purpose, code: str) -> bytes:
        """What is stored for a code; bound to the address and to what it is for."""
        return self._vault.mac(_VAULT_PURPOSE, address.key, purpose, code)

    def decoy(self) -> bytes:
        """A hash that no code has."""
        return secrets.token_bytes(32)
