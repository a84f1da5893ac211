"""PostgreSQL: users and codes. What must not be raced is one statement or one transaction here."""

from __future__ import annotations

import datetime as dt
import secrets
from typing import Any

import asyncpg

from kernel.reasons import Reason, Refused
from services.auth.domain.model import Address, Credentials, Mail, PendingCode, Purpose, User
from services.auth.outbox import Outbox

_USER = """
    user_id, account_id, email, totp_enabled, created_at,
    cardinality(recovery_code_hashes) as recovery_codes_left
"""
# A pending sign-up can still ask for another code by signing in; after this it is forgotten.
PENDING_KEPT = dt.timedelta(days=7)


class PostgresUsers:
    """Users and their one-time codes."""

    def __init__(self, pool: asyncpg.Pool, outbox: Outbox, *, max_attempts: int) -> None:
        self._pool = pool
        self._outbox = outbox
        self._max_attempts = max_attempts

    async def is_registered(self, address: Address) -> bool:
        """Whether a user has this address."""
        return bool(
            await self._pool.fetchval(
                "select exists (select from users where email_key = $1)", address.key
            )
        )

    async def user(self, user_id: str) -> User | None:
        """A user by id."""
        row = await self._pool.fetchrow(f"select {_USER} from users where user_id = $1", user_id)
        return _user(row) if row else None

    async def credentials(self, address: Address) -> Credentials | None:
        """What a sign-in with this address is checked against: the user's, or a pending sign-up's.

        One query whichever it is, so that time does not tell.
        """
        row = await self._pool.fetchrow(
            f"""
            select {_USER}, password_hash from users where email_key = $1
            union all
            select null, null, email, false, created_at, 0, password_hash from one_time_codes
             where email_key = $1 and purpose = 'sign_up' and password_hash is not null
               and not exists (select from users where email_key = $1)
            """,
            address.key,
        )
        if row is None:
            return None
        return Credentials(row["password_hash"], _user(row) if row["user_id"] else None)

    async def password_hash(self, user_id: str) -> str | None:
        """The password hash of a user."""
        found: str | None = await self._pool.fetchval(
            "select password_hash from users where user_id = $1", user_id
        )
        return found

    async def set_password_hash(self, user_id: str, password_hash: str, mail: Mail) -> None:
        """A new password, and the mail that says so."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(
                "update users set password_hash = $2 where user_id = $1", user_id, password_hash
            )
            await self._outbox.put(connection, mail)
        self._outbox.wake()

    async def renew_password_hash(self, user_id: str, old: str, new: str) -> None:
        """Another hash of the same password, unless somebody set a password meanwhile."""
        await self._pool.execute(
            "update users set password_hash = $3 where user_id = $1 and password_hash = $2",
            user_id,
            old,
            new,
        )

    async def save_code(self, code: PendingCode, mail: Mail, now: dt.datetime) -> None:
        """Put a code in force, in place of the last one for this purpose, and write its mail."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(
                """
                insert into one_time_codes (
                    email_key, purpose, email, code_hash, password_hash, created_at, expires_at
                ) values ($1, $2, $3, $4, $5, $6, $7)
                on conflict (email_key, purpose) do update set
                    email = excluded.email, code_hash = excluded.code_hash, attempts = 0,
                    password_hash = excluded.password_hash, created_at = excluded.created_at,
                    expires_at = excluded.expires_at
                """,
                code.address.key,
                code.purpose,
                code.address.email,
                code.code_hash,
                code.password_hash,
                now,
                code.expires_at,
            )
            await self._outbox.put(connection, mail)
        self._outbox.wake()

    async def complete_sign_up(self, address: Address, code_hash: bytes, now: dt.datetime) -> User:
        """Spend the code and make the user. Raises `Refused(OTP_...)`."""
        async with self._pool.acquire() as connection, connection.transaction():
            spent = await self._spend(connection, address, Purpose.SIGN_UP, code_hash, now)
            row = spent and await connection.fetchrow(
                f"""
                insert into users (user_id, email, email_key, password_hash, created_at)
                values ($1, $2, $3, $4, $5) on conflict (email_key) do nothing returning {_USER}
                """,
                secrets.token_hex(16),
                spent["email"],
                address.key,
                spent["password_hash"],
                now,
            )
        # Not inside the transaction: a wrong try must be counted, not rolled back.
        if not row:
            raise await self._why_not(address, Purpose.SIGN_UP, now)
        return _user(row)

    async def complete_reset(
        self, address: Address, code_hash: bytes, password_hash: str, mail: Mail, now: dt.datetime
    ) -> str:
        """Spend the code and set the password; returns the user's id. Raises `Refused(OTP_...)`."""
        async with self._pool.acquire() as connection, connection.transaction():
            spent = await self._spend(connection, address, Purpose.PASSWORD_RESET, code_hash, now)
            user_id: str | None = None
            if spent:
                user_id = await connection.fetchval(
                    "update users set password_hash = $2 where email_key = $1 returning user_id",
                    address.key,
                    password_hash,
                )
            if user_id:
                await self._outbox.put(connection, mail)
        if not user_id:
            raise await self._why_not(address, Purpose.PASSWORD_RESET, now)
        self._outbox.wake()
        return user_id

    async def spend_sign_in_code(
        self, address: Address, code_hash: bytes, now: dt.datetime
    ) -> None:
        """Spend the code. Raises `Refused(OTP_...)`."""
        async with self._pool.acquire() as connection, connection.transaction():
            spent = await self._spend(connection, address, Purpose.SIGN_IN, code_hash, now)
        if not spent:
            raise await self._why_not(address, Purpose.SIGN_IN, now)

    async def _spend(
        self,
        connection: Any,
        address: Address,
        purpose: Purpose,
        code_hash: bytes,
        now: dt.datetime,
    ) -> asyncpg.Record | None:
        """Count the attempt and, if the code is right, take it away.

        Of many at once Postgres lets one at the row and keeps it until the end of the transaction;
        the others look at it anew then, and find it gone or the attempts used up.
        """
        row: asyncpg.Record | None = await connection.fetchrow(
            """
            update one_time_codes set attempts = attempts + 1
             where email_key = $1 and purpose = $2 and expires_at > $4 and attempts < $5
            returning code_hash = $3 as matched, email, password_hash
            """,
            address.key,
            purpose,
            code_hash,
            now,
            self._max_attempts,
        )
        if row is None or not row["matched"]:
            return None
        await connection.execute(
            "delete from one_time_codes where email_key = $1 and purpose = $2", address.key, purpose
        )
        return row

    async def _why_not(self, address: Address, purpose: Purpose, now: dt.datetime) -> Refused:
        row = await self._pool.fetchrow(
            """
            select attempts, expires_at from one_time_codes
             where email_key = $1 and purpose = $2
            """,
            address.key,
            purpose,
        )
        if row and row["attempts"] >= self._max_attempts:
            return Refused(Reason.OTP_TOO_MANY_ATTEMPTS, "too many wrong codes; ask for a new one")
        if row and row["expires_at"] <= now:
            return Refused(Reason.OTP_EXPIRED, "the code has expired; ask for a new one")
        field = "email_code" if purpose is Purpose.SIGN_IN else "code"
        return Refused(Reason.OTP_INVALID, "the code is wrong or was used already", field=field)

    async def forget_old_codes(self, now: dt.datetime) -> None:
        """Delete codes, and with them pending sign-ups, that are long past."""
        await self._pool.execute(
            "delete from one_time_codes where expires_at < $1", now - PENDING_KEPT
        )


def _user(row: asyncpg.Record) -> User:
    return User(
        user_id=row["user_id"],
        account_id=row["account_id"],
        email=row["email"],
        totp_enabled=row["totp_enabled"],
        recovery_codes_left=row["recovery_codes_left"],
        created_at=row["created_at"],
    )
