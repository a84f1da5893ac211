"""How often an address may be mailed, a machine may ask, and a password may be wrong.

Counted in Redis, so all auth processes count together. Whether an address is registered makes no
difference anywhere here.
"""

from __future__ import annotations

import math
import time
from typing import Any

from limits import RateLimitItem, RateLimitItemPerSecond, parse
from limits.aio.storage import RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter
from redis.asyncio import Redis

from kernel.reasons import Reason, Refused
from mesh.config import Settings
from mesh.status import RETRY_AFTER_MS
from services.auth.vault import Vault

# Codes mailed to one address. Nobody is bothered outside production, where mails go nowhere.
_CODES = ("2/minute", "6/hour")
_CODES_OUTSIDE_PRODUCTION = ("600/minute",)
# Refreshes and API key exchanges of one machine.
_TOKENS = "1200/minute"
_VAULT_PURPOSE = "rate-limit"


class RateLimits:
    """The limits of auth; every method raises `Refused` when the limit is reached."""

    def __init__(self, redis: Redis, vault: Vault, settings: Settings) -> None:
        # Its types know of plain options only; the pool is documented all the same.
        shared: dict[str, Any] = {"connection_pool": redis.connection_pool}
        storage = RedisStorage(
            "async+redis://",
            implementation="redispy",
            key_prefix="tidebook:auth:limits",
            **shared,
        )
        codes = _CODES if settings.mode == "production" else _CODES_OUTSIDE_PRODUCTION
        self._windows = MovingWindowRateLimiter(storage)
        self._failures = FixedWindowRateLimiter(storage)
        self._vault = vault
        self._attempts = parse(settings.auth_rate_limit)
        self._codes = [parse(text) for text in codes]
        self._tokens = parse(_TOKENS)
        self._lock = RateLimitItemPerSecond(
            settings.signin_max_failures, settings.signin_lock_seconds, namespace="failures"
        )

    async def attempt(self, ip: str) -> None:
        """Count a sign-up, sign-in or code from a machine. Raises `Refused(RATE_LIMITED)`."""
        await self._take(self._attempts, "attempt", ip)

    async def token(self, ip: str) -> None:
        """Count a refresh or an API key exchange. Raises `Refused(RATE_LIMITED)`."""
        await self._take(self._tokens, "token", ip)

    async def code(self, address_key: str) -> None:
        """Count a code mailed to an address. Raises `Refused(RATE_LIMITED)`."""
        for item in self._codes:
            await self._take(item, "code", address_key)

    async def sign_in_code(self, address_key: str) -> None:
        """Count a code mailed to whoever knows the password: others cannot use these up. Raises
        `Refused(RATE_LIMITED)`.
        """
        for item in self._codes:
            await self._take(item, "sign-in-code", address_key)

    async def check_not_locked(self, who: str) -> None:
        """Raises `Refused(ACCOUNT_LOCKED)` after too many failures in a row."""
        name = self._name(who)
        if not await self._failures.test(self._lock, name):
            until = (await self._failures.get_window_stats(self._lock, name)).reset_time
            raise _refused(Reason.ACCOUNT_LOCKED, "too many failed attempts; try later", until)

    async def failed(self, who: str) -> bool:
        """Count a wrong password or second factor; True when it was one too many."""
        name = self._name(who)
        await self._failures.hit(self._lock, name)
        return not await self._failures.test(self._lock, name)

    async def succeeded(self, who: str) -> None:
        """The right one: forget the failures before it."""
        await self._failures.clear(self._lock, self._name(who))

    async def _take(self, item: RateLimitItem, kind: str, who: str) -> None:
        name = self._name(who)
        if not await self._windows.hit(item, kind, name):
            until = (await self._windows.get_window_stats(item, kind, name)).reset_time
            raise _refused(Reason.RATE_LIMITED, "too many requests; try later", until)

    def _name(self, who: str) -> str:
        # Addresses of people do not belong in the names of keys.
        return self._vault.mac(_VAULT_PURPOSE, who).hex()[:32]


def _refused(reason: Reason, message: str, until: float) -> Refused:
    wait_ms = max(1000, math.ceil((until - time.time()) * 1000))
    refused = Refused(reason, message)
    refused.details[RETRY_AFTER_MS] = str(wait_ms)
    return refused
