"""The service's own secret: one random file, from which every other key is derived.

The file is made at first start, readable by its owner alone (0600), and shared by all replicas of
auth that share a database. What the database holds under it (signing keys, authenticator secrets,
mails that wait) is useless to a thief of the database alone, and lost without the file.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MASTER_KEY_BYTES = 32
_NONCE_BYTES = 12


class VaultError(Exception):
    """The key file is unusable, or is not the one that sealed the data. One line for a person."""


class Vault:
    """Keyed hashes and encryption, each purpose with a key of its own."""

    def __init__(self, master_key: bytes) -> None:
        if len(master_key) != MASTER_KEY_BYTES:
            raise VaultError(f"the master key must have {MASTER_KEY_BYTES} bytes")
        self._master_key = master_key
        self._keys: dict[str, bytes] = {}

    def mac(self, purpose: str, *parts: str) -> bytes:
        """A 32-byte hash of `parts` that nobody without the master key can compute or check.

        Fast on purpose: only for what is too long to guess, or guarded by an attempt limit.
        """
        digest = hmac.new(self._key(purpose), digestmod=sha256)
        for part in parts:
            encoded = part.encode()
            # Lengths keep ("ab", "c") and ("a", "bc") apart.
            digest.update(len(encoded).to_bytes(4, "big") + encoded)
        return digest.digest()

    def seal(self, purpose: str, plain: bytes) -> bytes:
        """Encrypt and authenticate (AES-256-GCM, random nonce in front)."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + AESGCM(self._key(purpose)).encrypt(nonce, plain, None)

    def unseal(self, purpose: str, sealed: bytes) -> bytes:
        """What was sealed for the same purpose; `VaultError` if it was not, or by another key."""
        nonce, cipher = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return AESGCM(self._key(purpose)).decrypt(nonce, cipher, None)
        except (InvalidTag, ValueError) as error:
            raise VaultError(f"data sealed for {purpose} does not belong to this key") from error

    def _key(self, purpose: str) -> bytes:
        key = self._keys.get(purpose)
        if key is None:
            info = f"tidebook/auth/{purpose}".encode()
            key = HKDF(SHA256(), length=32, salt=None, info=info).derive(self._master_key)
            self._keys[purpose] = key
        return key


def open_vault(path: Path) -> Vault:
    """The vault of the key file at `path`, which is made when there is none.

    Raises `VaultError` when the file is not a key or others may read it.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        _create(path)
    if path.stat().st_mode & 0o077:
        raise VaultError(f"{path} can be read by others; do `chmod 600 {path}`")
    content = path.read_bytes()
    if len(content) != MASTER_KEY_BYTES:
        raise VaultError(f"{path} is not a key file of Tidebook")
    return Vault(content)


def _create(path: Path) -> None:
    # Written whole under another name first: two replicas that start together must end up with the
    # same key, and a crash must not leave half of one.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(MASTER_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
