"""When to send what has gathered to an engine: at once while it is idle, else a little later.

A message costs more than the orders in it, so the more there is to do, the more should share one.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

# Commands of one message.
MESSAGE_MAX: Final = 500
# While so many messages are with the engine, others gather, but not for longer than this: it would
# only queue them until its log has taken what it has.
_MESSAGES_AHEAD = 1
_GATHER_SECONDS = 0.004


class Pace:
    """The pace of one stream, on which each message gets one answer."""

    def __init__(self) -> None:
        self._unanswered = 0
        self._news = asyncio.Event()

    def sent(self) -> None:
        """A message goes out."""
        self._unanswered += 1

    async def answered(self, waiting: int) -> None:
        """The answer to one has come. Of so many waiting commands those that should go do so before
        this returns: the engine is to work on them while the answer is given out.
        """
        self._unanswered -= 1
        self._news.set()
        if waiting:
            await asyncio.sleep(0)

    async def gather(self, waiting: int) -> None:
        """Return when so many waiting commands should go."""
        if self._unanswered < _MESSAGES_AHEAD or waiting >= MESSAGE_MAX:
            return
        self._news.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GATHER_SECONDS):
                await self._news.wait()
