"""Sessions and API keys that ended while tokens of theirs were still good: told to all who verify.

Auth appends the ids to one stream in Redis, and every process that verifies tokens follows it. At
its start a process reads what may still matter; from then on an end reaches it in milliseconds. An
id is forgotten once the last token that carries it has expired, so there are never many.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from kernel.clock import NS_PER_SECOND, Clock, SystemClock
from mesh.aio import Backoff, raise_if_cancelled

STREAM = "tidebook:auth:ended"
_BLOCK_MS = 2000
_BATCH = 1000
# How far clocks of ours may be apart.
_SPARE_SECONDS = 60
# Calls that come before the first read wait for it, but no longer than this.
_FIRST_READ_SECONDS = 1.0
log = structlog.get_logger()

OnEnd = Callable[[frozenset[str]], None]


class RevocationLog:
    """Where auth writes; tokens live for at most `token_seconds`."""

    def __init__(self, redis: Redis, clock: Clock, *, token_seconds: int) -> None:
        self._redis = redis
        self._clock = clock
        self._keep_seconds = token_seconds + _SPARE_SECONDS

    async def add(self, session_ids: Iterable[str]) -> None:
        """Say that these have ended. Raises `RedisError` when it could not be said."""
        until_s = self._clock.now_ns() // NS_PER_SECOND + self._keep_seconds
        async with self._redis.pipeline(transaction=False) as pipe:
            for session_id in session_ids:
                pipe.xadd(STREAM, {"id": session_id, "until_s": until_s})
            if not len(pipe):
                return
            entry_ids = await pipe.execute()
        # By the clock of Redis, which made the ids.
        newest_ms = int(entry_ids[-1].partition(b"-")[0])
        await self._redis.xtrim(STREAM, minid=str(newest_ms - self._keep_seconds * 1000))


class EndedSessions:
    """The ids that no token may carry any more, as far as this process has been told.

    Without Redis it goes on with what it knows: nobody can end a session then either, because that
    is where sessions are.
    """

    def __init__(self, redis: Redis, clock: Clock | None = None) -> None:
        self._redis = redis
        self._clock = clock or SystemClock()
        self._until_s: dict[str, int] = {}
        self._read_once = asyncio.Event()
        self._listeners: list[OnEnd] = []
        self._last_id = "0"

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._until_s

    def __len__(self) -> int:
        return len(self._until_s)

    def on_end(self, listener: OnEnd) -> None:
        """Have `listener` called with the ids that have just ended."""
        self._listeners.append(listener)

    async def read_once(self) -> None:
        """Wait for what ended before this process began, but not for ever."""
        if not self._read_once.is_set():
            # No `wait_for`: it can lose a cancellation.
            waiting = asyncio.ensure_future(self._read_once.wait())
            try:
                await asyncio.wait({waiting}, timeout=_FIRST_READ_SECONDS)
            finally:
                waiting.cancel()

    async def run(self) -> None:
        """Follow the stream until cancelled."""
        backoff = Backoff(first_seconds=0.1, most_seconds=2.0)
        while True:
            try:
                await self._read()
                backoff.reset()
            except (RedisError, OSError) as error:
                log.warning("ended_sessions_not_followed", error=str(error) or repr(error))
                await backoff.wait()
            raise_if_cancelled()

    async def _read(self) -> None:
        # The first time without waiting: there may be nothing to come.
        block = _BLOCK_MS if self._read_once.is_set() else None
        answer: Any = await self._redis.xread({STREAM: self._last_id}, count=_BATCH, block=block)
        entries = answer[0][1] if answer else []
        if entries:
            self._last_id = entries[-1][0]
            self._take({row[b"id"].decode(): int(row[b"until_s"]) for _, row in entries})
        if len(entries) < _BATCH:
            self._read_once.set()

    def _take(self, ended: dict[str, int]) -> None:
        now_s = self._clock.now_ns() // NS_PER_SECOND
        self._until_s |= ended
        self._until_s = {name: until for name, until in self._until_s.items() if until > now_s}
        for listener in self._listeners:
            listener(frozenset(ended))
