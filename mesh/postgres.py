"""The one way a service gets its PostgreSQL pool."""

from __future__ import annotations

import re
from collections.abc import Mapping

import asyncpg

from mesh.config import Settings

_SCHEMA = re.compile(r"[a-z][a-z0-9_]{0,62}")


async def open_pool(
    settings: Settings,
    schema: str,
    *,
    server_settings: Mapping[str, str] | None = None,
    stateless: bool = False,
) -> asyncpg.Pool:
    """A connection pool whose connections see `schema` first; `server_settings` come on top.

    `stateless` promises that nothing is left on a connection outside of a transaction (no session
    locks, no `set`, no `listen`). The server then is not asked to clear it after each use, which
    costs as much as a small query. A transaction that was left open is ended in any case.

    Takes `postgresql://` URLs, with `?host=/folder` for a unix socket. Raises `ValueError` when no
    URL is set and `OSError` or `asyncpg.PostgresError` when the server cannot be reached.
    """
    if settings.postgres_url is None:
        raise ValueError(
            "TIDEBOOK_POSTGRES_URL is not set (`tidebook up` sets it for its services)"
        )
    if not _SCHEMA.fullmatch(schema):
        raise ValueError(f"not a schema name: {schema!r}")
    return await asyncpg.create_pool(
        plain_url(settings.postgres_url),
        min_size=1,
        max_size=settings.postgres_pool_max,
        timeout=5.0,
        command_timeout=30.0,
        max_inactive_connection_lifetime=300.0,
        reset=_leave if stateless else None,
        server_settings={
            "search_path": schema,
            "application_name": f"tidebook-{schema}",
            # Our statements are small and known: compiling them just in time costs more than it
            # gives, and a session stuck in a transaction would hold its locks for ever.
            "jit": "off",
            "idle_in_transaction_session_timeout": "30000",
        }
        | dict(server_settings or {}),
    )


async def open_pool_or_exit(
    settings: Settings, schema: str, *, stateless: bool = False
) -> asyncpg.Pool:
    """`open_pool` for the start of a service: its errors become `SystemExit` with one line."""
    try:
        return await open_pool(settings, schema, stateless=stateless)
    except ValueError as error:
        raise SystemExit(f"{schema}: {error}") from None
    except (OSError, asyncpg.PostgresError) as error:
        why = str(error) or type(error).__name__
        raise SystemExit(f"{schema}: cannot reach PostgreSQL: {why}") from None


async def _leave(_: object) -> None:
    """What a connection is given back with: nothing."""


def plain_url(url: str) -> str:
    """`postgresql+asyncpg://...` (SQLAlchemy's form) -> `postgresql://...`."""
    scheme, _, rest = url.partition("://")
    return f"{scheme.partition('+')[0]}://{rest}"


def sqlalchemy_url(url: str) -> str:
    """`postgresql://...` -> `postgresql+asyncpg://...`, for migrations."""
    return "postgresql+asyncpg://" + plain_url(url).partition("://")[2]
