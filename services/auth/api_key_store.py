"""PostgreSQL: API keys."""

from __future__ import annotations

import datetime as dt

import asyncpg

from services.auth.domain.model import ApiKey

_KEY = (
    "k.api_key_id, k.user_id, k.name, k.scopes, k.ip_allow_list, k.created_at, k.expires_at,"
    " k.last_used_at"
)


class PostgresApiKeys:
    """API keys with the keyed hashes of their secrets."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def add(self, key: ApiKey, secret_hash: bytes, *, most: int) -> bool:
        """Keep a new key, unless its owner has `most` already."""
        async with self._pool.acquire() as connection, connection.transaction():
            # The owner's row is the lock: two at once must not both see the last free place.
            await connection.execute("select from users where user_id = $1 for update", key.user_id)
            added = await connection.execute(
                """
                insert into api_keys (
                    api_key_id, user_id, name, secret_hash, scopes, ip_allow_list, created_at,
                    expires_at
                )
                select $1, $2, $3, $4, $5, $6, $7, $8
                 where (select count(*) from api_keys
                         where user_id = $2 and revoked_at is null) < $9
                """,
                key.api_key_id,
                key.user_id,
                key.name,
                secret_hash,
                sorted(key.scopes),
                list(key.ip_allow_list),
                key.created_at,
                key.expires_at,
                most,
            )
        return bool(added == "INSERT 0 1")

    async def of_user(self, user_id: str) -> list[ApiKey]:
        """The keys of a user that are not revoked, newest first."""
        rows = await self._pool.fetch(
            f"""
            select {_KEY} from api_keys k where user_id = $1 and revoked_at is null
             order by created_at desc, api_key_id
            """,
            user_id,
        )
        return [_key(row) for row in rows]

    async def revoke(self, user_id: str, api_key_id: str, now: dt.datetime) -> bool:
        """End a key of a user; False when there is none."""
        done = await self._pool.execute(
            """
            update api_keys set revoked_at = $3
             where user_id = $1 and api_key_id = $2 and revoked_at is null
            """,
            user_id,
            api_key_id,
            now,
        )
        return bool(done == "UPDATE 1")

    async def find(self, api_key_id: str) -> tuple[ApiKey, bytes, int] | None:
        """A key that is not revoked, the hash of its secret, and its owner's account."""
        row = await self._pool.fetchrow(
            f"""
            select {_KEY}, k.secret_hash, u.account_id
              from api_keys k join users u using (user_id)
             where k.api_key_id = $1 and k.revoked_at is null
            """,
            api_key_id,
        )
        return (_key(row), row["secret_hash"], row["account_id"]) if row else None

    async def mark_used(self, api_key_id: str, now: dt.datetime) -> None:
        """Remember when a key was last exchanged."""
        await self._pool.execute(
            "update api_keys set last_used_at = $2 where api_key_id = $1", api_key_id, now
        )


def _key(row: asyncpg.Record) -> ApiKey:
    return ApiKey(
        api_key_id=row["api_key_id"],
        user_id=row["user_id"],
        name=row["name"],
        scopes=frozenset(row["scopes"]),
        ip_allow_list=tuple(row["ip_allow_list"]),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        last_used_at=row["last_used_at"],
    )
