"""The one way a service gets its Redis (or Valkey) client."""

from __future__ import annotations

from redis.asyncio import Redis
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
