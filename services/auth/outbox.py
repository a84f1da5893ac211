"""Mails wait in Postgres until the mail server has taken them.

A mail is written in the transaction that makes its code, and deleted once it is sent: a mail server
that is down, or a restart of auth, delays a code but does not lose it. Mails that could not be sent
before their code expired are dropped. Several auth processes share one outbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import asyncpg
import orjson
import structlog

from kernel.clock import Clock
from mesh.aio import Backoff
from services.auth.clocks import utc
from services.auth.domain.model import Mail
from services.auth.vault import Vault, VaultError

# How long a claimed mail is left to the process that claimed it.
_CLAIM = dt.timedelta(seconds=60)
_CLAIM_MANY = 20
_IDLE_SECONDS = 1.0
_CLEAN_EVERY = dt.timedelta(minutes=10)
_RETRY_FIRST_SECONDS = 1
_RETRY_MOST_SECONDS = 30
_VAULT_PURPOSE = "mail"

log = structlog.get_logger("tidebook.auth.outbox")


class Mailer(Protocol):
    """Hands one mail to the mail server."""

    async def send(self, mail: Mail) -> None:
        """Raises `MailRefused` when trying again is useless, `OSError` when it may help."""
        ...


class MailRefused(Exception):
    """The mail server will never take this mail."""


class Outbox:
    """Writes mails down and sends them in the background."""

    def __init__(self, pool: asyncpg.Pool, vault: Vault, mailer: Mailer, clock: Clock) -> None:
        self._pool = pool
        self._vault = vault
        self._mailer = mailer
        self._clock = clock
        self._woken = asyncio.Event()

    async def put(self, connection: Any, mail: Mail) -> None:
        """Write a mail down in the caller's transaction; call `wake` after the commit."""
        content = orjson.dumps({"to": mail.to, "subject": mail.subject, "text": mail.text})
        await connection.execute(
            "insert into outbox (sealed, due_at, expires_at) values ($1, $2, $3)",
            self._vault.seal(_VAULT_PURPOSE, content),
            utc(self._clock),
            mail.expires_at,
        )

    def wake(self) -> None:
        """There is something to send."""
        self._woken.set()

    async def run(self, clean: Callable[[dt.datetime], Awaitable[None]]) -> None:
        """Send what is due, for ever. `clean` is called now and then with the time, to tidy up."""
        cleaned_at: dt.datetime | None = None
        unreachable = Backoff(first_seconds=0.5, most_seconds=5.0)
        while True:
            now = utc(self._clock)
            try:
                if cleaned_at is None or now - cleaned_at > _CLEAN_EVERY:
                    await clean(now)
                    cleaned_at = now
                sent = await self.send_due()
                unreachable.reset()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                log.warning("outbox_unreachable", error=type(error).__name__)
                await unreachable.wait()
                continue
            if not sent:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), _IDLE_SECONDS)
                self._woken.clear()

    async def send_due(self) -> int:
        """Try once to send every mail that is due, up to a batch; returns how many were tried."""
        now = utc(self._clock)
        rows = await self._pool.fetch(
            """
            update outbox set attempts = attempts + 1, due_at = $1::timestamptz + $2::interval
             where mail_id in (select mail_id from outbox where due_at <= $1
                                order by due_at limit $3 for update skip locked)
            returning mail_id, sealed, attempts, expires_at
            """,
            now,
            _CLAIM,
            _CLAIM_MANY,
        )
        for row in rows:
            if row["expires_at"] <= now:
                await self._delete(row["mail_id"])
            else:
                await self._send(row)
        return len(rows)

    async def _send(self, row: asyncpg.Record) -> None:
        mail_id, attempts = row["mail_id"], row["attempts"]
        try:
            content = orjson.loads(self._vault.unseal(_VAULT_PURPOSE, row["sealed"]))
            await self._mailer.send(Mail(expires_at=row["expires_at"], **content))
        except (MailRefused, VaultError) as error:
            log.error("mail_dropped", mail_id=mail_id, error=str(error))
            await self._delete(mail_id)
        except OSError as error:
            seconds = min(_RETRY_FIRST_SECONDS * 2 ** (attempts - 1), _RETRY_MOST_SECONDS)
            log.warning(
                "mail_delayed",
                mail_id=mail_id,
                attempts=attempts,
                retry_s=seconds,
                error=str(error),
            )
            await self._pool.execute(
                "update outbox set due_at = $2 where mail_id = $1",
                mail_id,
                utc(self._clock) + dt.timedelta(seconds=seconds),
            )
        else:
            log.info("mail_sent", mail_id=mail_id, attempts=attempts)
            await self._delete(mail_id)

    async def _delete(self, mail_id: int) -> None:
        await self._pool.execute("delete from outbox where mail_id = $1", mail_id)
