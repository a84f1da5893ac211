"""Recovery codes: what opens an account whose authenticator app is lost, each of them once.

120 random bits in 24 characters, such as "4k7m-0xq9-...". That is too long to guess even for who
has their hashes, so a fast keyed hash is enough (ASVS 5.0.0, 6.5.2 asks for a slow one below 112).
"""

from __future__ import annotations

import base64
import secrets
import textwrap

from services.auth.vault import Vault

HOW_MANY = 10
_BYTES = 15
_GROUP = 4
_VAULT_PURPOSE = "recovery-code"
# Crockford's alphabet has no letter that looks like another one or like a digit.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_FROM_RFC_4648 = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", _ALPHABET)
_AS_MEANT = str.maketrans("oil", "011", "- ")


class RecoveryCodes:
    """Makes codes and their hashes."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def new(self) -> list[str]:
        """Fresh codes, as they are shown."""
        return [_new_code() for _ in range(HOW_MANY)]

    def hash(self, user_id: str, code: str) -> bytes:
        """What is stored for a code, however its owner types it; bound to the user."""
        return self._vault.mac(_VAULT_PURPOSE, user_id, code.lower().translate(_AS_MEANT))


def _new_code() -> str:
    text = base64.b32encode(secrets.token_bytes(_BYTES)).decode().translate(_FROM_RFC_4648)
    return "-".join(textwrap.wrap(text, _GROUP))
