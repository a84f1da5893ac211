"""What waits to be sent to one client: bounded, conflated when it can be.

When the client reads too slowly and the queue is full, all waiting frames of conflated topics are
dropped, and each of those topics goes on with a fresh snapshot once the client has read the rest. A
snapshot carries the topic's own `seq`, so the deltas after it fit on. Frames that must not be lost
(answers, trades, candles) cut the connection when there is no room for them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from gateway.ws.frames import Frame


class Source(Protocol):
    """Where frames come from that a slow client may miss."""

    @property
    def conflated(self) -> bool:
        """Whether a snapshot can stand for frames that were dropped."""
        ...

    def snapshot_frame(self) -> Frame | None:
        """Everything as it is now; None when nothing is known yet."""
        ...


class Outbox:
    """The queue.

    `on_conflation` is called when a topic's frames give way to a snapshot, `on_overflow` once, when
    a frame that cannot be dropped has no room.
    """

    def __init__(
        self,
        *,
        max_frames: int,
        max_bytes: int,
        on_conflation: Callable[[], None],
        on_overflow: Callable[[], None],
    ) -> None:
        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self._on_conflation = on_conflation
        self._on_overflow = on_overflow
        self._queue: deque[tuple[Frame, Source | None]] = deque()
        self._bytes = 0
        # Topics whose frames were dropped: they owe a snapshot. Ordered, each once.
        self._stale: dict[Source, None] = {}
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._overflowed = False

    @property
    def empty(self) -> bool:
        """Whether nothing waits and nothing is owed."""
        return not self._queue and not self._stale

    @property
    def bytes(self) -> int:
        """Size of what waits."""
        return self._bytes

    def put(self, frame: Frame, source: Source | None = None) -> None:
        """Queue a frame; of a `source` that is conflated it may be dropped for a snapshot later."""
        if source is not None and source in self._stale:
            return
        if not self._fits(frame):
            self._drop_conflated()
            if source is not None and source.conflated:
                self._mark_stale(source)
                return
            if not self._fits(frame):
                if not self._overflowed:
                    self._overflowed = True
                    self._on_overflow()
                return
        self._append(frame, source)

    async def put_waiting(self, frame: Frame) -> None:
        """Queue a frame, waiting for room: for sources that can be held back."""
        while not self._fits(frame):
            self._room.clear()
            await self._room.wait()
        self._append(frame, None)

    async def get(self) -> Frame:
        """The next frame, waiting for one."""
        while True:
            if self._queue:
                frame, _ = self._queue.popleft()
                self._bytes -= len(frame)
                self._room.set()
                return frame
            if self._stale:
                self._queue_snapshot()
                continue
            self._filled.clear()
            await self._filled.wait()

    def forget(self, source: Source) -> None:
        """Drop what waits of a source that is not wanted any more."""
        self._stale.pop(source, None)
        self._remove(lambda queued: queued is source)

    def _queue_snapshot(self) -> None:
        source = next(iter(self._stale))
        del self._stale[source]
        frame = source.snapshot_frame()
        if frame is not None:
            self._append(frame, source)

    def _drop_conflated(self) -> None:
        for _, source in self._queue:
            if source is not None and source.conflated:
                self._mark_stale(source)
        self._remove(lambda queued: queued is not None and queued in self._stale)

    def _mark_stale(self, source: Source) -> None:
        if source not in self._stale:
            self._on_conflation()
            self._stale[source] = None
            self._filled.set()

    def _remove(self, unwanted: Callable[[Source | None], bool]) -> None:
        kept = [item for item in self._queue if not unwanted(item[1])]
        self._queue.clear()
        self._queue.extend(kept)
        self._bytes = sum(len(frame) for frame, _ in kept)
        self._room.set()

    def _fits(self, frame: Frame) -> bool:
        return len(self._queue) < self._max_frames and (
            # One frame alone always fits, or it could never be sent.
            not self._queue or self._bytes + len(frame) <= self._max_bytes
        )

    def _append(self, frame: Frame, source: Source | None) -> None:
        self._queue.append((frame, source))
        self._bytes += len(frame)
        self._filled.set()
