"""What an operator may do to an account: end its sessions and revoke its API keys."""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg
from redis.asyncio import Redis

from kernel.clock import Clock
from mesh.revocation import RevocationLog
from services.auth.addresses import parse_address
from services.auth.api_key_store import PostgresApiKeys
from services.auth.audit import AuditTrail, Happened
from services.auth.clocks import utc
from services.auth.domain.model import API_KEY_SESSION, Client
from services.auth.session_store import RedisSessions
from services.auth.sessions import end_sessions

# What the account's owner reads in place of an address and a program.
_CLIENT = Client(user_agent="operator")


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose sessions they are."""

    user_id: str
    account_id: int
    email: str


@dataclass(frozen=True, slots=True)
class Ended:
    """How many sessions and API keys were ended."""

    sessions: int
    api_keys: int


class Operator:
    """Works on the stores of auth, whether that runs or not; whoever verifies tokens is told."""

    def __init__(
        self, pool: asyncpg.Pool, redis: Redis, clock: Clock, *, token_seconds: int
    ) -> None:
        self._pool = pool
        self._sessions = RedisSessions(redis)
        self._api_keys = PostgresApiKeys(pool)
        self._revocations = RevocationLog(redis, clock, token_seconds=token_seconds)
        self._audit = AuditTrail(pool, clock)
        self._clock = clock

    async def by_email(self, email: str) -> Owner | None:
        """Who has this address. Raises `Refused(EMAIL_INVALID)`."""
        key = parse_address(email, production=False).key
        return await self._owner("email_key = $1", key)

    async def by_account(self, account_id: int) -> Owner | None:
        """Who has the trading account of this number."""
        return await self._owner("account_id = $1", account_id)

    async def everybody(self) -> list[Owner]:
        """All who have an open session or an API key."""
        with_sessions = [user_id async for user_id in self._sessions.user_ids()]
        rows = await self._pool.fetch(
            """
            select user_id, account_id, email from users u
             where user_id = any($1)
                or exists (select from api_keys k
                            where k.user_id = u.user_id and k.revoked_at is null)
             order by account_id
            """,
            with_sessions,
        )
        return [Owner(*row) for row in rows]

    async def end(self, owner: Owner, *, api_keys: bool) -> Ended:
        """End all sessions of an account, its tokens with them, and its API keys if asked to."""
        session_ids = await self._sessions.ids_of(owner.user_id)
        await end_sessions(self._sessions, self._revocations, owner.user_id, session_ids)
        key_ids: list[str] = []
        if api_keys:
            key_ids = [key.api_key_id for key in await self._api_keys.of_user(owner.user_id)]
            for key_id in key_ids:
                await self._api_keys.revoke(owner.user_id, key_id, utc(self._clock))
            await self._revocations.add(API_KEY_SESSION + key_id for key_id in key_ids)
        for subject in (*session_ids, *key_ids):
            await self._audit.note(
                owner.user_id, Happened.ENDED_BY_OPERATOR, _CLIENT, subject=subject
            )
        return Ended(len(session_ids), len(key_ids))

    async def _owner(self, condition: str, value: object) -> Owner | None:
        row = await self._pool.fetchrow(
            f"select user_id, account_id, email from users where {condition}", value
        )
        return Owner(*row) if row else None
