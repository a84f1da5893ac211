"""The keys that sign access tokens: made at first start, sealed in Postgres, one set for all.

The newest key signs once every replica and verifier has had time to learn of it; every key is
published, so that tokens of an older one stay good until they expire. A new key is made when the
newest is older than the rotation period, and an old one goes when no token of it can be alive.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import asyncpg
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kernel.clock import Clock
from mesh.tokens import TokenSigner
from services.auth.clocks import utc
from services.auth.vault import Vault

_VAULT_PURPOSE = "signing-key"
# A new key is published for this long before it signs.
PUBLISHED_FIRST = dt.timedelta(seconds=60)
_CHECK_SECONDS = 5.0
log = structlog.get_logger("tidebook.auth.signing")


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    """How long a key signs (None: for ever), and how long a token lives."""

    rotate_after: dt.timedelta | None
    token_life: dt.timedelta


class SigningKeys:
    """The signer in force, and the public keys of all."""

    def __init__(self, pool: asyncpg.Pool, vault: Vault, clock: Clock, policy: KeyPolicy) -> None:
        self._pool = pool
        self._vault = vault
        self._clock = clock
        self._policy = policy
        self._signer: TokenSigner | None = None

    def sign(
        self,
        *,
        user_id: str,
        account_id: int,
        session_id: str,
        scopes: frozenset[str],
        ttl_seconds: int,
        networks: Iterable[str] = (),
    ) -> str:
        """An access token, by the key that signs now; `load` must have been called."""
        assert self._signer is not None
        return self._signer.sign(
            user_id=user_id,
            account_id=account_id,
            session_id=session_id,
            scopes=scopes,
            ttl_seconds=ttl_seconds,
            networks=networks,
        )

    async def public_keys(self) -> dict[str, bytes]:
        """Key id -> raw Ed25519 public key, newest first."""
        rows = await self._pool.fetch(
            "select kid, public_key from signing_keys order by created_at desc"
        )
        return {row["kid"]: row["public_key"] for row in rows}

    async def load(self) -> None:
        """Take the stored keys; make one when there is none or the newest is too old.

        Raises `VaultError` when the stored ones were sealed under another key file.
        """
        now = utc(self._clock)
        async with self._pool.acquire() as connection, connection.transaction():
            # Two replicas must agree on the next key.
            await connection.execute("lock table signing_keys in share row exclusive mode")
            rows = await self._rows(connection)
            if not rows or self._is_old(rows[0]["created_at"], now):
                await self._make(connection, now)
                rows = await self._rows(connection)
            await self._drop_dead(connection, rows, now)
        # The newest that has been published for long enough, or the first there is.
        row = next((r for r in rows if r["created_at"] + PUBLISHED_FIRST <= now), rows[-1])
        if self._signer is None or self._signer.kid != row["kid"]:
            key = Ed25519PrivateKey.from_private_bytes(
                self._vault.unseal(_VAULT_PURPOSE, row["private_key_sealed"])
            )
            self._signer = TokenSigner(key, row["kid"], clock=self._clock)
            log.info("signing_key_in_force", kid=row["kid"])

    async def run(self) -> None:
        """Follow the stored keys and rotate them, until cancelled."""
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            try:
                await self.load()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                log.warning("signing_keys_not_checked", error=repr(error))

    def _is_old(self, created_at: dt.datetime, now: dt.datetime) -> bool:
        after = self._policy.rotate_after
        return after is not None and created_at + after <= now

    async def _rows(self, connection: Any) -> list[asyncpg.Record]:
        rows: list[asyncpg.Record] = await connection.fetch(
            "select kid, created_at, private_key_sealed from signing_keys order by created_at desc"
        )
        return rows

    async def _make(self, connection: Any, now: dt.datetime) -> None:
        kid, key = secrets.token_hex(8), Ed25519PrivateKey.generate()
        await connection.execute(
            """
            insert into signing_keys (kid, public_key, private_key_sealed, created_at)
            values ($1, $2, $3, $4)
            """,
            kid,
            key.public_key().public_bytes_raw(),
            self._vault.seal(_VAULT_PURPOSE, key.private_bytes_raw()),
            now,
        )
        log.info("signing_key_made", kid=kid)

    async def _drop_dead(
        self, connection: Any, rows: list[asyncpg.Record], now: dt.datetime
    ) -> None:
        """Keys whose successor has signed for longer than a token lives, with time to spare."""
        alive = 2 * PUBLISHED_FIRST + self._policy.token_life
        dead = [
            row["kid"]
            for successor, row in pairwise(rows)
            if successor["created_at"] + alive <= now
        ]
        if dead:
            await connection.execute("delete from signing_keys where kid = any($1)", dead)
            log.info("signing_keys_dropped", kids=dead)
