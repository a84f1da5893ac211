"""The one way a service gets its Redis (or Valkey) client."""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import Connection, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from mesh.config import Settings

CONNECT_TIMEOUT_SECONDS = 2.0
# Also bounds blocking reads: block for less than this.
SOCKET_TIMEOUT_SECONDS = 5.0


def open_redis(settings: Settings) -> Redis:
    """A client with a connection pool; it connects on first use and answers in bytes.

    A command that meets a dead connection is tried again twice within about a second, so commands
    that must not run twice need their own guard. Raises `ValueError` when no URL is set.
    """
    if settings.redis_url is None:
        raise ValueError("TIDEBOOK_REDIS_URL is not set (`tidebook up` sets it for its services)")
    client: Redis = Redis.from_url(
        settings.redis_url,
        decode_responses=False,
        # RESP2: replies keep one shape with every server version.
        protocol=2,
        socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
        socket_timeout=SOCKET_TIMEOUT_SECONDS,
        # A connection that sat idle may have died unseen (a restarted server, a dropped NAT entry).
        health_check_interval=15,
        retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), retries=2),
        retry_on_error=[RedisConnectionError, RedisTimeoutError],
    )
    return client


class OwnConnection:
    """A connection for one command after the other, at a third of what each costs by the client:
    there is no pool to ask, nothing is tried again, and one timer watches a whole call.
    """

    def __init__(self, client: Redis) -> None:
        self._pool: Any = client.connection_pool
        self._connection: Connection | None = None

    async def call(self, *parts: bytes) -> Any:
        """The answer to a command; the client closes the connection when it is closed.

        Raises `RedisError`: after a `ConnectionError` or `TimeoutError` nobody knows whether it was
        done, and the next call connects anew.
        """
        connection = self._connection
        if connection is None:
            connection = self._connection = await self._pool.get_connection()
            connection.socket_timeout = None
        packed = [b"*%d\r\n" % len(parts)]
        packed += [b"$%d\r\n%b\r\n" % (len(part), part) for part in parts]
        try:
            async with asyncio.timeout(SOCKET_TIMEOUT_SECONDS):
                await connection.send_packed_command(b"".join(packed), check_health=False)
                return await connection.read_response()
        except TimeoutError as error:
            await connection.disconnect(nowait=True)
            raise RedisTimeoutError("no answer in time") from error
