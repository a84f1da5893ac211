"""From one publisher to many readers, with bounded memory for each.

A topic hands every message, built once, to its subscriptions. A subscription keeps what its reader
has not taken yet: only the newest of each key where that is enough (conflation), else a bounded
queue whose overflow ends the stream with `SLOW_READER`. One stream's subscriptions share a mailbox,
which wakes the reader.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from google.protobuf.message import Message

from kernel.reasons import Reason, Refused

# Undelivered messages of one subscription: a few seconds of a busy market.
QUEUE_MAX = 1000

MessageT = TypeVar("MessageT", bound=Message)


class Subscription(Protocol):
    """What one reader gets of one topic."""

    def drain(self) -> Message | None:
        """A response with everything that waits, or None when nothing does any more."""
        ...

    def close(self) -> None:
        """The reader is gone."""
        ...


class Mailbox:
    """Wakes one stream's reader when any of its subscriptions has something for it.

    Iterate over it for the responses; iteration raises `Refused(SLOW_READER)` when the reader fell
    too far behind.
    """

    def __init__(self) -> None:
        # In the order in which they became ready, each once.
        self._ready: dict[Subscription, None] = {}
        self._wake = asyncio.Event()
        self._failure: Refused | None = None
        self._ended = False

    @property
    def failed(self) -> bool:
        """The stream is about to end: nothing more needs to be kept for it."""
        return self._failure is not None

    def ready(self, subscription: Subscription) -> None:
        """`subscription` has something to drain."""
        self._ready[subscription] = None
        self._wake.set()

    def forget(self, subscription: Subscription) -> None:
        """`subscription` was closed: nothing of it is to be read any more."""
        self._ready.pop(subscription, None)

    def fail(self, refused: Refused) -> None:
        """End the stream with `refused` as soon as its reader comes back."""
        self._failure = refused
        self._wake.set()

    def end(self) -> None:
        """End the stream once everything that is ready was read."""
        self._ended = True
        self._wake.set()

    def __aiter__(self) -> Mailbox:
        return self

    async def __anext__(self) -> Any:
        """The next response, of the subscription that has waited longest."""
        while True:
            if self._failure is not None:
                raise self._failure
            while self._ready:
                subscription = next(iter(self._ready))
                del self._ready[subscription]
                if (response := subscription.drain()) is not None:
                    return response
            if self._ended:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()


class Topic(Generic[MessageT]):
    """Messages about markets, each under a key; hands them to whoever watches their market."""

    def __init__(self) -> None:
        self._subscriptions: dict[KeyedSubscription[MessageT], None] = {}

    def __bool__(self) -> bool:
        """Whether anybody listens: without readers a message need not be built."""
        return bool(self._subscriptions)

    def add(self, subscription: KeyedSubscription[MessageT]) -> None:
        self._subscriptions[subscription] = None

    def remove(self, subscription: KeyedSubscription[MessageT]) -> None:
        self._subscriptions.pop(subscription, None)

    def publish(self, market: str, key: Hashable, message: MessageT) -> None:
        """Hand out one message. It must not be changed any more."""
        for subscription in self._subscriptions:
            subscription.offer(market, key, message)


class KeyedSubscription(Generic[MessageT]):
    """Keeps the newest message of each key, in the order in which the keys came up.

    For prices and tickers the key is the market, so a slow reader skips what is out of date. For
    candles it is the candle: a finished one is never skipped, and `limit` keys are too many.
    """

    def __init__(
        self,
        topic: Topic[MessageT],
        mailbox: Mailbox,
        markets: Collection[str],
        respond: Callable[[Sequence[MessageT]], Message],
        *,
        first: Iterable[tuple[Hashable, MessageT]] = (),
        limit: int = QUEUE_MAX,
    ) -> None:
        """`markets` empty for all; `first` is the snapshot that opens the stream."""
        self._topic = topic
        self._mailbox = mailbox
        self._markets = frozenset(markets)
        self._respond = respond
        self._limit = limit
        self._pending: dict[Hashable, MessageT] = dict(first)
        topic.add(self)
        if self._pending:
            mailbox.ready(self)

    def offer(self, market: str, key: Hashable, message: MessageT) -> None:
        """Take a message if it is of our markets."""
        if (self._markets and market not in self._markets) or self._mailbox.failed:
            return
        self._pending[key] = message
        if len(self._pending) > self._limit:
            self._pending.clear()
            self._mailbox.fail(slow_reader())
            return
        self._mailbox.ready(self)

    def drain(self) -> Message | None:
        pending, self._pending = list(self._pending.values()), {}
        return self._respond(pending) if pending else None

    def close(self) -> None:
        self._topic.remove(self)


class QueueTopic(Generic[MessageT]):
    """Batches of messages that belong together (one log entry's trades), by market."""

    def __init__(self) -> None:
        self._subscriptions: dict[QueueSubscription[MessageT], None] = {}

    def add(self, subscription: QueueSubscription[MessageT]) -> None:
        self._subscriptions[subscription] = None

    def remove(self, subscription: QueueSubscription[MessageT]) -> None:
        self._subscriptions.pop(subscription, None)

    def publish(self, batch: Sequence[tuple[str, MessageT]]) -> None:
        """Hand out (market, message) pairs; each reader gets its own of them in one response."""
        for subscription in self._subscriptions:
            subscription.offer(batch)


class QueueSubscription(Generic[MessageT]):
    """Every message, in order; more than `limit` that wait are too many."""

    def __init__(
        self,
        topic: QueueTopic[MessageT],
        mailbox: Mailbox,
        markets: Collection[str],
        respond: Callable[[Sequence[MessageT]], Message],
        *,
        first: Iterable[MessageT] = (),
        limit: int = QUEUE_MAX,
    ) -> None:
        """`first` is what a resuming reader missed; it does not count against `limit`."""
        self._topic = topic
        self._mailbox = mailbox
        self._markets = frozenset(markets)
        self._respond = respond
        self._pending: deque[MessageT] = deque(first)
        self._limit = limit + len(self._pending)
        topic.add(self)
        if self._pending:
            mailbox.ready(self)

    def offer(self, batch: Sequence[tuple[str, MessageT]]) -> None:
        """Take the messages of our markets."""
        ours = [message for market, message in batch if market in self._markets]
        if not ours or self._mailbox.failed:
            return
        if len(self._pending) + len(ours) > self._limit:
            self._pending.clear()
            self._mailbox.fail(slow_reader())
            return
        self._pending.extend(ours)
        self._mailbox.ready(self)

    def drain(self) -> Message | None:
        pending = list(self._pending)
        self._pending.clear()
        return self._respond(pending) if pending else None

    def close(self) -> None:
        self._topic.remove(self)


def slow_reader() -> Refused:
    """The end of a stream whose reader fell too far behind."""
    return Refused(Reason.SLOW_READER, "too many updates wait; read faster or watch less")
