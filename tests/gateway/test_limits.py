"""Token buckets in a real Valkey."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from gateway.limits import Limit, RateLimiter
from kernel.reasons import Reason, Refused
from tests.support import eventually


@pytest_asyncio.fixture
async def redis(valkey_url: str) -> AsyncIterator[Redis]:
    client: Redis = Redis.from_url(valkey_url, protocol=2)
    yield client
    await client.aclose()


async def taken(limiter: RateLimiter, limit: Limit, key: str, tries: int) -> int:
    """How many of `tries` requests pass."""
    passed = 0
    for _ in range(tries):
        try:
            await limiter.check(limit, key)
            passed += 1
        except Refused as refused:
            assert refused.reason is Reason.RATE_LIMITED
            assert int(refused.details["retry_after_ms"]) > 0
    return passed


async def test_gateways_share_a_bucket(redis: Redis) -> None:
    limit = Limit("test", 100, 3600)
    first, second = RateLimiter(redis), RateLimiter(redis)
    assert await taken(first, limit, "a", 60) == 60
    # What one gateway has taken in advance is at most one lot.
    assert 40 - limit.lot <= await taken(second, limit, "a", 60) <= 40
    assert await taken(second, limit, "b", 60) == 60


async def test_a_bucket_refills_with_time(redis: Redis) -> None:
    limit = Limit("test", 10, 1)
    limiter = RateLimiter(redis)
    began = time.monotonic()
    passed = await taken(limiter, limit, "a", 15)
    assert 10 <= passed <= 11 + 10 * (time.monotonic() - began)

    async def again() -> None:
        await limiter.check(limit, "a")

    await eventually(again, timeout_s=60)


async def test_most_requests_do_not_ask_redis(redis: Redis) -> None:
    limit = Limit("test", 1000, 3600)
    await redis.config_resetstat()
    await taken(RateLimiter(redis), limit, "a", 200)
    calls = (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"]
    assert calls <= 200 // limit.lot + 1


@pytest.mark.parametrize("text", ["", "10", "10/week", "0/minute", "-1/second", "ten/minute"])
def test_a_limit_that_cannot_be_read_stops_the_start(text: str) -> None:
    with pytest.raises(ValueError, match="rate limit"):
        Limit.parse("ip", text)
