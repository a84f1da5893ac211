"""Reading the commands of a stream ahead of their answers, never more than a window of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from kernel.reasons import Reason, Refused

MESSAGE_MAX = 1000
# Commands of one stream that may be unanswered; the next message then waits in flow control.
IN_FLIGHT_MAX = 4000

RequestT = TypeVar("RequestT")


class ReadAhead:
    """What the task that reads a stream and the one that answers it tell each other."""

    def __init__(self) -> None:
        self.ended = False
        """The requests have ended, or what took them raised."""
        self._in_flight = 0
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    async def read(
        self, requests: AsyncIterator[RequestT], take: Callable[[RequestT], int]
    ) -> None:
        """Give the requests to `take`, which returns how many commands one has, as there is room.

        Raises what `take` raises.
        """
        try:
            async for request in requests:
                size = take(request)
                self._in_flight += size
                while self._in_flight > IN_FLIGHT_MAX:
                    self._room.clear()
                    await self._room.wait()
        finally:
            self.ended = True
            self._news.set()

    def answered(self, commands: int) -> None:
        """There is room for as many again."""
        self._in_flight -= commands
        self._room.set()

    def tell(self) -> None:
        """There is something to answer, or to answer no more."""
        self._news.set()

    async def news(self) -> None:
        """Wait until `tell`, or the end of the requests."""
        self._news.clear()
        await self._news.wait()


def check_size(commands: int) -> None:
    """Refuse a message that is too large."""
    if commands > MESSAGE_MAX:
        raise Refused(
            Reason.INVALID_ARGUMENT, f"must be at most {MESSAGE_MAX} commands", field="commands"
        )
