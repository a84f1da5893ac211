"""The database connection, and which of its errors pass by themselves."""

from __future__ import annotations

from typing import TypeAlias

import asyncpg

# The classes are generic to type checkers only.
Connection: TypeAlias = (
    "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
)


class Superseded(Exception):
    """Another process has applied these entries meanwhile; start again from its position."""


_PASSING = (
    # The connection: refused, reset, closed under us, or no answer in time.
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    # What asyncpg says of a connection that was cut in the middle of a message.
    asyncpg.InternalClientError,
    # The server: disk full, too many connections, restarting, out of memory, failing over.
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    # The neighbours.
    asyncpg.TransactionRollbackError,
    Superseded,
)


def is_passing(error: BaseException) -> bool:
    """Whether the same work may well succeed later."""
    return isinstance(error, _PASSING)


def text_of(error: BaseException) -> str:
    """What an error says; its name when it says nothing, as a timeout does."""
    return str(error) or type(error).__name__
