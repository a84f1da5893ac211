"""PostgreSQL: second factors and their recovery codes. What must count once is one statement."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import asyncpg

from services.auth.domain.model import Mail, Totp
from services.auth.outbox import Outbox


class PostgresSecondFactors:
    """Keeps, with each user, a sealed secret and the hashes of the codes that were not used."""

    def __init__(self, pool: asyncpg.Pool, outbox: Outbox) -> None:
        self._pool = pool
        self._outbox = outbox

    async def totp(self, user_id: str) -> Totp | None:
        """The second factor of a user, in force or begun."""
        row = await self._pool.fetchrow(
            """
            select totp_secret_sealed, totp_enabled from users
             where user_id = $1 and totp_secret_sealed is not null
            """,
            user_id,
        )
        return Totp(*row) if row else None

    async def begin(self, user_id: str, sealed_secret: bytes) -> bool:
        """Keep a secret that is not in force yet; False when one is in force."""
        done = await self._pool.execute(
            """
            update users set totp_secret_sealed = $2, totp_last_step = 0
             where user_id = $1 and not totp_enabled
            """,
            user_id,
            sealed_secret,
        )
        return bool(done == "UPDATE 1")

    async def enable(self, user_id: str, step: int, hashes: Sequence[bytes], mail: Mail) -> bool:
        """Mark a time step as used, and put the factor in force with these recovery codes; False
        when the step was used before.
        """
        return await self._change(
            lambda _: mail,
            """
            update users set totp_last_step = $2, totp_enabled = true, recovery_code_hashes = $3
             where user_id = $1 and totp_last_step < $2 and totp_secret_sealed is not null
               and not totp_enabled
            returning cardinality(recovery_code_hashes)
            """,
            user_id,
            step,
            hashes,
        )

    async def spend_step(self, user_id: str, step: int) -> bool:
        """Mark a time step as used; False when it was used before."""
        done = await self._pool.execute(
            """
            update users set totp_last_step = $2
             where user_id = $1 and totp_last_step < $2 and totp_enabled
            """,
            user_id,
            step,
        )
        return bool(done == "UPDATE 1")

    async def spend_recovery_code(
        self, user_id: str, code_hash: bytes, mail: Callable[[int], Mail]
    ) -> bool:
        """Take a recovery code away, and write what `mail` makes of the number that is left; False
        when there is no such code. Of many at once Postgres lets one at the row, and the others
        find the code gone.
        """
        return await self._change(
            mail,
            """
            update users set recovery_code_hashes = array_remove(recovery_code_hashes, $2)
             where user_id = $1 and totp_enabled and $2 = any(recovery_code_hashes)
            returning cardinality(recovery_code_hashes)
            """,
            user_id,
            code_hash,
        )

    async def renew_recovery_codes(self, user_id: str, hashes: Sequence[bytes], mail: Mail) -> bool:
        """Put codes in the place of all there were; False when no factor is in force."""
        return await self._change(
            lambda _: mail,
            """
            update users set recovery_code_hashes = $2 where user_id = $1 and totp_enabled
            returning cardinality(recovery_code_hashes)
            """,
            user_id,
            hashes,
        )

    async def end(self, user_id: str, mail: Mail) -> None:
        """Forget the second factor and its recovery codes."""
        await self._change(
            lambda _: mail,
            """
            update users set totp_enabled = false, totp_secret_sealed = null, totp_last_step = 0,
                   recovery_code_hashes = '{}'
             where user_id = $1 returning 0
            """,
            user_id,
        )

    async def _change(
        self, mail: Callable[[int], Mail], statement: str, *arguments: object
    ) -> bool:
        """Run a statement that returns how many codes are left, and write the mail about it in the
        same transaction; False when it changed nothing.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            left = await connection.fetchval(statement, *arguments)
            if left is not None:
                await self._outbox.put(connection, mail(left))
        self._outbox.wake()
        return left is not None
