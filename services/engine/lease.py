"""The leader's lease: one Redis key with an expiry. It decides who tries to lead, no more.

Who does lead is decided by the log, which takes an entry id from one writer only: two engines that
both believe in their lease cannot both write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

# Of the lease: how often a leader renews it, and how often a follower looks whether it is free.
_RENEWALS = 4
_LOOKS = 10
_RENEW = """
if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('pexpire', KEYS[1], ARGV[2]) end
return 0
"""
_RELEASE = """
if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end
return 0
"""

log = structlog.get_logger()


def lease_key(shard: int) -> str:
    """The key of a shard's lease, on the same Redis Cluster node as its log."""
    return f"tidebook:{{{shard}}}:leader"


class Lease:
    """One engine's claim to the lease of its shard.

    `name` must be this process's alone; `address` is where its public listener is found, for those
    who ask a follower for what only the leader does.
    """

    def __init__(self, redis: Redis, shard: int, *, name: str, address: str, seconds: float):
        self._redis = redis
        self._key = lease_key(shard)
        self._value = f"{address} {name}".encode()
        self._ms = max(1, int(seconds * 1000))
        # Public address of the engine that had the lease when we last looked; empty for nobody.
        self.leader = ""

    async def acquire(self) -> None:
        """Wait until the lease is ours."""
        while not await self._try():
            await asyncio.sleep(self._ms / 1000 / _LOOKS)
        log.info("lease_taken")

    async def keep(self, lost: Callable[[], Awaitable[None]]) -> None:
        """Renew the lease for ever; `lost` is called whenever another engine is seen to have it."""
        while True:
            await asyncio.sleep(self._ms / 1000 / _RENEWALS)
            try:
                renewed = await self._redis.eval(_RENEW, 1, self._key, self._value, str(self._ms))
            except (RedisError, OSError) as error:
                log.warning("lease_not_renewed", error=str(error))
                continue
            if not renewed and not await self._try():
                log.warning("lease_lost", leader=self.leader)
                await lost()

    async def release(self) -> None:
        """Give it up if it is ours, so that a follower need not wait for its end."""
        try:
            await self._redis.eval(_RELEASE, 1, self._key, self._value)
        except (RedisError, OSError) as error:
            log.warning("lease_not_released", error=str(error))

    async def _try(self) -> bool:
        """Take the lease if it is free; else note who has it."""
        try:
            if await self._redis.set(self._key, self._value, nx=True, px=self._ms):
                self.leader = ""
                return True
            holder = await self._redis.get(self._key)
        except (RedisError, OSError) as error:
            log.warning("lease_not_asked", error=str(error))
            return False
        if holder == self._value:
            # The answer to an earlier try of ours got lost.
            return True
        text = holder.decode() if isinstance(holder, bytes) else holder or ""
        self.leader = text.partition(" ")[0]
        return False
