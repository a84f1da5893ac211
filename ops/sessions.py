"""`tidebook sessions end`: an account, or everybody, is signed out at once at every door."""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg
from redis.exceptions import RedisError
from rich.console import Console
from rich.markup import escape

from kernel.clock import SystemClock
from kernel.reasons import Refused
from mesh.config import Settings
from mesh.postgres import open_pool
from mesh.redis import open_redis
from ops.errors import OpsError
from services.auth.operator import Operator, Owner


@dataclass(frozen=True, slots=True)
class Whose:
    """An address, an account number, or (without either) everybody."""

    email: str | None = None
    account: int | None = None


async def end(settings: Settings, whose: Whose, *, api_keys: bool) -> int:
    """End sessions, and API keys if asked to; prints one line per account and returns 0.

    Raises `OpsError` when there is no such account or a store cannot be reached.
    """
    try:
        return await _end(settings, whose, api_keys=api_keys)
    except asyncpg.UndefinedTableError:
        raise
    except (OSError, asyncpg.PostgresError, RedisError) as error:
        raise OpsError(f"a store cannot be reached: {error}") from error


async def _end(settings: Settings, whose: Whose, *, api_keys: bool) -> int:
    console = Console(highlight=False)
    redis = open_redis(settings)
    try:
        async with await open_pool(settings, "auth") as pool:
            operator = Operator(
                pool, redis, SystemClock(), token_seconds=settings.access_token_seconds
            )
            owners = await _owners(operator, whose)
            for owner in owners:
                ended = await operator.end(owner, api_keys=api_keys)
                what = _count(ended.sessions, "session")
                if api_keys:
                    what += f" and {_count(ended.api_keys, 'API key')}"
                console.print(
                    f"account {owner.account_id} ({escape(owner.email)}): ended {what}",
                    soft_wrap=True,
                )
            if not owners:
                console.print("nobody has a session")
    finally:
        await redis.aclose()
    return 0


async def _owners(operator: Operator, whose: Whose) -> list[Owner]:
    if whose.email is not None:
        try:
            owner = await operator.by_email(whose.email)
        except Refused as refused:
            raise OpsError(f"{whose.email!r}: {refused}") from None
        name = whose.email
    elif whose.account is not None:
        owner = await operator.by_account(whose.account)
        name = f"account {whose.account}"
    else:
        return await operator.everybody()
    if owner is None:
        raise OpsError(f"there is no user {name}")
    return [owner]


def _count(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"
