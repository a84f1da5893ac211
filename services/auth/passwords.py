"""Password hashes: bcrypt in threads, because one takes about 0.35 s of CPU at cost 12."""

from __future__ import annotations

import asyncio
import base64
import hmac
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import TypeVar

import bcrypt

from kernel.reasons import Reason, Refused
from services.auth.domain.password_rules import normalised

T = TypeVar("T")

# More than this many waiting would be answered after their callers have given up.
_QUEUE_MAX = 64
_PREHASH_KEY = b"tidebook/password/1"


class BcryptPasswords:
    """Makes and checks password hashes off the event loop (bcrypt releases the GIL)."""

    def __init__(self, *, cost: int) -> None:
        self._cost = cost
        self._threads = ThreadPoolExecutor(
            max_workers=max(1, os.cpu_count() or 1), thread_name_prefix="bcrypt"
        )
        self._waiting = 0
        # The hash of no password at all: checking against it takes as long as against a real one.
        self._nobody = bcrypt.gensalt(cost) + b"." * 31

    async def hash(self, password: str) -> str:
        """A new salted hash. Raises `Refused(OVERLOADED)` when too many wait already."""
        prepared = _prepare(password)
        return await self._run(
            lambda: bcrypt.hashpw(prepared, bcrypt.gensalt(self._cost)).decode("ascii")
        )

    async def matches(self, password: str, password_hash: str | None) -> bool:
        """Whether the password has this hash. None is never matched, and takes as long."""
        prepared = _prepare(password)
        against = self._nobody if password_hash is None else password_hash.encode("ascii")
        matched = await self._run(lambda: bcrypt.checkpw(prepared, against))
        return matched and password_hash is not None

    def is_cheap(self, password_hash: str) -> bool:
        """Whether the hash is quicker to try than those that are made now."""
        return int(password_hash.split("$")[2]) < self._cost

    def close(self) -> None:
        """Stop the threads; what waits is dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= _QUEUE_MAX:
            raise Refused(Reason.OVERLOADED, "too many sign-ins at once; try again")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1


def _prepare(password: str) -> bytes:
    """44 bytes that stand for the whole password: bcrypt looks at no more than 72 bytes.

    Keyed, so that an unsalted SHA-256 leaked elsewhere cannot be tried in place of the password.
    """
    digest = hmac.new(_PREHASH_KEY, normalised(password).encode(), sha256).digest()
    return base64.b64encode(digest)
