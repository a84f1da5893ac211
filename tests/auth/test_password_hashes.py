"""What is kept of a password keeps up with the cost that the operator wants."""

from __future__ import annotations

import asyncio

import asyncpg

from mesh.config import Settings
from mesh.postgres import plain_url
from tests.auth.conftest import MailServer, running_auth


async def test_a_sign_in_makes_the_hash_anew_where_the_cost_was_raised(
    settings: Settings, mail_server: MailServer
) -> None:
    async with running_auth(settings, mail_server) as auth:
        ann = await auth.sign_up()

    async def kept() -> str:
        assert settings.postgres_url is not None
        connection = await asyncpg.connect(plain_url(settings.postgres_url))
        try:
            found = await connection.fetchval(
                "select password_hash from auth.users where user_id = $1", ann.user.user_id
            )
        finally:
            await connection.close()
        return str(found)

    assert (cheap := await kept()).startswith("$2b$04$")
    dearer = settings.model_copy(update={"bcrypt_cost": 5})
    async with running_auth(dearer, mail_server) as auth:
        # Whichever renews it, the others were right about the password all the same.
        for answer in await asyncio.gather(*(auth.sign_in(ann) for _ in range(4))):
            assert answer.user.user_id == ann.user.user_id
        assert (dear := await kept()).startswith("$2b$05$")
        await auth.sign_in(ann)
        assert await kept() == dear != cheap
    async with running_auth(settings, mail_server) as auth:
        await auth.sign_in(ann)
        assert await kept() == dear, "a cost that was lowered makes no hash cheaper"
