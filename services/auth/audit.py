"""The audit trail: what happened around an account's security, for its owner to read.

What changes something is written before it is answered. Failed attempts are written a moment later,
so that the time of an answer does not tell whether there is an account.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

import asyncpg
import structlog

from kernel.clock import Clock
from services.auth.clocks import utc
from services.auth.domain.model import Client

# How long events are kept.
KEPT = dt.timedelta(days=365)
_LATER_SECONDS = 0.2
_WAITING_MAX = 10_000
log = structlog.get_logger("tidebook.auth.audit")


class Happened(StrEnum):
    """Kinds of security events; names are those of the contract."""

    ACCOUNT_OPENED = "ACCOUNT_OPENED"
    SIGNED_IN = "SIGNED_IN"
    SIGN_IN_FAILED = "SIGN_IN_FAILED"
    SECOND_FACTOR_FAILED = "SECOND_FACTOR_FAILED"
    ACCOUNT_LOCKED = "ACCOUNT_LOCKED"
    SIGNED_OUT = "SIGNED_OUT"
    SESSION_REVOKED = "SESSION_REVOKED"
    REFRESH_TOKEN_REUSED = "REFRESH_TOKEN_REUSED"
    PASSWORD_CHANGED = "PASSWORD_CHANGED"
    PASSWORD_RESET_REQUESTED = "PASSWORD_RESET_REQUESTED"
    PASSWORD_RESET = "PASSWORD_RESET"
    SECOND_FACTOR_ENABLED = "SECOND_FACTOR_ENABLED"
    SECOND_FACTOR_DISABLED = "SECOND_FACTOR_DISABLED"
    API_KEY_CREATED = "API_KEY_CREATED"
    API_KEY_REVOKED = "API_KEY_REVOKED"
    API_KEY_REFUSED = "API_KEY_REFUSED"
    RECOVERY_CODES_CREATED = "RECOVERY_CODES_CREATED"
    RECOVERY_CODE_USED = "RECOVERY_CODE_USED"
    ENDED_BY_OPERATOR = "ENDED_BY_OPERATOR"


@dataclass(frozen=True, slots=True)
class SecurityEvent:
    """One event. `subject` names the session or API key it is about; empty for none."""

    event_id: int
    happened: Happened
    at: dt.datetime
    client: Client
    subject: str


class AuditTrail:
    """Writes and reads security events."""

    def __init__(self, pool: asyncpg.Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._waiting: deque[tuple[object, ...]] = deque(maxlen=_WAITING_MAX)

    async def note(
        self, user_id: str, happened: Happened, client: Client, *, subject: str = ""
    ) -> None:
        """Write an event now."""
        await self._write([self._row(user_id, happened, client, subject)])

    def note_later(
        self, user_id: str, happened: Happened, client: Client, *, subject: str = ""
    ) -> None:
        """Write an event soon; of a flood the oldest are dropped."""
        self._waiting.append(self._row(user_id, happened, client, subject))

    async def page(self, user_id: str, *, before: int, most: int) -> list[SecurityEvent]:
        """Events of a user, newest first, below the id `before` (0: from the newest)."""
        rows = await self._pool.fetch(
            """
            select event_id, happened, at, ip, user_agent, subject from security_events
             where user_id = $1 and ($2 = 0 or event_id < $2) order by event_id desc limit $3
            """,
            user_id,
            before,
            most,
        )
        return [
            SecurityEvent(
                row["event_id"],
                Happened(row["happened"]),
                row["at"],
                Client(row["ip"], row["user_agent"]),
                row["subject"],
            )
            for row in rows
        ]

    async def run(self) -> None:
        """Write what waits, until cancelled; what waits then is still written."""
        try:
            while True:
                await asyncio.sleep(_LATER_SECONDS)
                await self._write_waiting()
        finally:
            await self._write_waiting()

    async def forget_old(self, now: dt.datetime) -> None:
        """Delete events that are long past."""
        await self._pool.execute("delete from security_events where at < $1", now - KEPT)

    async def _write_waiting(self) -> None:
        rows = list(self._waiting)
        if not rows:
            return
        self._waiting.clear()
        try:
            await self._write(rows)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            self._waiting.extendleft(reversed(rows))
            log.warning("audit_waits", error=repr(error), events=len(rows))

    async def _write(self, rows: list[tuple[object, ...]]) -> None:
        await self._pool.executemany(
            """
            insert into security_events (user_id, happened, at, ip, user_agent, subject)
            values ($1, $2, $3, $4, $5, $6)
            """,
            rows,
        )

    def _row(
        self, user_id: str, happened: Happened, client: Client, subject: str
    ) -> tuple[object, ...]:
        return (user_id, happened.value, utc(self._clock), client.ip, client.user_agent, subject)
