"""The keys that sign access tokens: made at first start, sealed in Postgres, one set for all.

The newest key signs; every key is published, so that tokens of an older one stay good until they
expire. A new row is a rotation.
"""

from __future__ import annotations

import secrets

import asyncpg
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kernel.clock import Clock
from mesh.tokens import TokenSigner
from services.auth.clocks import utc
from services.auth.vault import Vault

_VAULT_PURPOSE = "signing-key"
log = structlog.get_logger("tidebook.auth.signing")


class SigningKeys:
    """The signer in force, and the public keys of all."""

    def __init__(self, pool: asyncpg.Pool, signer: TokenSigner) -> None:
        self._pool = pool
        self.signer = signer

    async def public_keys(self) -> dict[str, bytes]:
        """Key id -> raw Ed25519 public key, newest first."""
        rows = await self._pool.fetch(
            "select kid, public_key from signing_keys order by created_at desc"
        )
        return {row["kid"]: row["public_key"] for row in rows}


async def load_signing_keys(pool: asyncpg.Pool, vault: Vault, clock: Clock) -> SigningKeys:
    """The stored keys, with a first one made when there is none.

    Raises `VaultError` when the stored ones were sealed under another key file.
    """
    async with pool.acquire() as connection, connection.transaction():
        # Two replicas that start together must agree on the first key.
        await connection.execute("lock table signing_keys in share row exclusive mode")
        row = await connection.fetchrow(
            "select kid, private_key_sealed from signing_keys order by created_at desc limit 1"
        )
        if row is None:
            kid, key = secrets.token_hex(8), Ed25519PrivateKey.generate()
            await connection.execute(
                """
                insert into signing_keys (kid, public_key, private_key_sealed, created_at)
                values ($1, $2, $3, $4)
                """,
                kid,
                key.public_key().public_bytes_raw(),
                vault.seal(_VAULT_PURPOSE, key.private_bytes_raw()),
                utc(clock),
            )
            log.info("signing_key_made", kid=kid)
        else:
            kid = row["kid"]
            key = Ed25519PrivateKey.from_private_bytes(
                vault.unseal(_VAULT_PURPOSE, row["private_key_sealed"])
            )
    return SigningKeys(pool, TokenSigner(key, kid, clock=clock))
