"""Rate limits: token buckets in Redis, shared by all gateways.

A gateway takes tokens in lots of `1 / _LOTS` of the bucket and spends them itself, so that a busy
client costs one script call per lot and not one per request. Without Redis everything passes, and
the log says so.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from kernel.reasons import Reason, Refused
from mesh.status import RETRY_AFTER_MS

_RATE = re.compile(r"([1-9][0-9]{0,8})\s*/\s*(second|minute|hour|day)")
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
_LOTS = 20
_REDIS_TIMEOUT_SECONDS = 0.25
# After a failure Redis is left alone for this long, so that requests do not wait for it in turn.
_PAUSE_SECONDS = 1.0
_COMPLAIN_EVERY_SECONDS = 10.0
_LEASES_MAX = 50_000

# Takes up to ARGV[1] tokens from a bucket of ARGV[2] tokens that refills in ARGV[3] ms. Returns the
# tokens granted, those left, and how many ms until there is one again. The server's clock counts,
# so gateways need not agree on the time.
_TAKE = """
local want, capacity, period = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local kept = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = capacity
if kept[1] then
  tokens = math.min(capacity, tonumber(kept[1]) + (now - tonumber(kept[2])) * capacity / period)
end
local granted = math.min(want, math.floor(tokens))
local left = tokens - granted
redis.call('HSET', KEYS[1], 'tokens', tostring(left), 'at', now)
redis.call('PEXPIRE', KEYS[1], period)
local wait = 0
if left < 1 then wait = math.ceil((1 - left) * period / capacity) end
return {granted, math.floor(left), wait}
"""
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Limit:
    """`count` requests in `seconds`, as a bucket of that size."""

    name: str
    count: int
    seconds: int

    @classmethod
    def parse(cls, name: str, text: str) -> Limit:
        """`"600/minute"` -> Limit; raises `ValueError`."""
        match = _RATE.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"rate limit {name}: {text!r} is not like 600/minute")
        return cls(name, int(match[1]), _SECONDS[match[2]])

    @property
    def lot(self) -> int:
        """Tokens to take from Redis at once."""
        return max(1, self.count // _LOTS)


class Spent(NamedTuple):
    """A token was taken, and so many are left."""

    limit: Limit
    left: int

    def numbers(self) -> tuple[int, int, int]:
        """The limit, what is left of it, and in how many seconds all of it is there again."""
        limit, left = self
        return limit.count, left, (limit.count - left) * limit.seconds // limit.count

    def headers(self) -> dict[str, str]:
        """The `RateLimit-*` headers."""
        count, left, reset = self.numbers()
        return {
            "RateLimit-Limit": str(count),
            "RateLimit-Remaining": str(left),
            "RateLimit-Reset": str(reset),
        }


@dataclass(slots=True)
class _Lease:
    tokens: int = 0
    left: int = 0
    # Until then there is nothing to be had (monotonic seconds).
    empty_until: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class RateLimiter:
    """Takes one token per request and bucket."""

    def __init__(self, redis: Redis) -> None:
        self._take = redis.register_script(_TAKE)
        self._leases: dict[tuple[str, str], _Lease] = {}
        self._down_until = 0.0
        self._complained = 0.0

    async def check(self, limit: Limit, key: str) -> Spent | None:
        """Spend a token of `key`; None when nobody can say what is left.

        Raises `Refused(RATE_LIMITED)` with the time after which there is a token again.
        """
        lease = self._leases.get((limit.name, key))
        if lease is None:
            lease = self._new_lease(limit, key)
        if not lease.tokens:
            async with lease.lock:
                if not lease.tokens and not await self._refill(limit, key, lease):
                    return None
        lease.tokens -= 1
        return Spent(limit, lease.tokens + lease.left)

    def spend(self, first: tuple[Limit, str], second: tuple[Limit, str]) -> Spent | None:
        """Spend a token of both at once: what is left in the second. None, and nothing spent, when
        that cannot be said without asking Redis.
        """
        one = self._leases.get((first[0].name, first[1]))
        two = self._leases.get((second[0].name, second[1]))
        if one is None or two is None or not one.tokens or not two.tokens:
            return None
        one.tokens -= 1
        two.tokens -= 1
        return Spent(second[0], two.tokens + two.left)

    async def _refill(self, limit: Limit, key: str, lease: _Lease) -> bool:
        """Take a lot from Redis; False when Redis cannot be asked."""
        now = time.monotonic()
        if now < lease.empty_until:
            raise _refused(limit, lease.empty_until - now)
        if now < self._down_until:
            return False
        try:
            async with asyncio.timeout(_REDIS_TIMEOUT_SECONDS):
                granted, left, wait_ms = await self._take(
                    keys=[f"rate:{limit.name}:{key}"],
                    args=[limit.lot, limit.count, limit.seconds * 1000],
                )
        except (RedisError, OSError, TimeoutError) as error:
            self._down_until = now + _PAUSE_SECONDS
            if now - self._complained >= _COMPLAIN_EVERY_SECONDS:
                self._complained = now
                log.warning("rate_limits_off", error=str(error) or type(error).__name__)
            return False
        lease.tokens, lease.left = granted, left
        if not granted:
            lease.empty_until = now + wait_ms / 1000
            raise _refused(limit, wait_ms / 1000)
        return True

    def _new_lease(self, limit: Limit, key: str) -> _Lease:
        if len(self._leases) >= _LEASES_MAX:
            # The oldest half; what they had left has refilled in Redis meanwhile.
            for old in list(self._leases)[: _LEASES_MAX // 2]:
                del self._leases[old]
        lease = self._leases[limit.name, key] = _Lease()
        return lease


def _refused(limit: Limit, seconds: float) -> Refused:
    refused = Refused(
        Reason.RATE_LIMITED,
        f"more than {limit.count} requests in {limit.seconds} s; see Retry-After",
        limit=limit.name,
    )
    refused.details[RETRY_AFTER_MS] = str(max(1, int(seconds * 1000)))
    return refused
