"""Entries of the log on their way to the books: read, given their meaning, waiting to be written.

Three stages at once: entries are read, all that has been read is folded into one batch, one batch
is written. So a batch is small while the ledger keeps up and grows when it falls behind, which is
when the fixed cost of a transaction matters.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import NamedTuple

from mesh.aio import cancel_and_wait
from mesh.log import LogRecord
from services.settlement.domain.batch import Batch
from services.settlement.domain.ledger import PoisonEntry

# What a transaction holds at most, if one entry alone is not larger.
_BATCH_BYTES = 1 << 20
# What waits to be folded, and a read more.
_READ_BYTES = 4 << 20


class Folded(NamedTuple):
    """Entries, what they mean, and when they were read."""

    records: list[LogRecord]
    batch: Batch
    last_command_seq: int
    read_ns: int


# Entries and the number of the last command before them -> what they mean; may raise `PoisonEntry`.
Fold = Callable[[list[LogRecord], int], Awaitable[Folded]]


@contextlib.asynccontextmanager
async def folded_ahead(
    entries: AsyncIterable[list[LogRecord]], fold: Fold, last_command_seq: int
) -> AsyncIterator[AsyncIterator[Folded]]:
    """Batches of `entries`, made while the one before is being used.

    What `entries` or `fold` raises comes after every batch of what is before it.
    """
    waiting = _Waiting()
    batches: asyncio.Queue[Folded | Exception] = asyncio.Queue(1)
    tasks = (
        asyncio.create_task(_read(entries, waiting), name="read ahead"),
        asyncio.create_task(_fold(waiting, fold, last_command_seq, batches), name="fold ahead"),
    )
    try:
        yield _taken_from(batches)
    finally:
        await cancel_and_wait(*tasks)


async def _taken_from(batches: asyncio.Queue[Folded | Exception]) -> AsyncIterator[Folded]:
    while True:
        folded = await batches.get()
        if isinstance(folded, Exception):
            raise folded
        yield folded


async def _read(entries: AsyncIterable[list[LogRecord]], waiting: _Waiting) -> None:
    try:
        async for records in entries:
            await waiting.put(records)
    except Exception as error:
        waiting.fail(error)


async def _fold(
    waiting: _Waiting,
    fold: Fold,
    last_command_seq: int,
    batches: asyncio.Queue[Folded | Exception],
) -> None:
    try:
        while True:
            async for folded in _good(await waiting.take(_BATCH_BYTES), fold, last_command_seq):
                last_command_seq = folded.last_command_seq
                await batches.put(folded)
    except Exception as error:
        await batches.put(error)


async def _good(
    records: list[LogRecord], fold: Fold, last_command_seq: int
) -> AsyncIterator[Folded]:
    """All in one; one by one up to the bad one if there is one, which is raised."""
    try:
        together = await fold(records, last_command_seq)
    except PoisonEntry:
        for record in records:
            one = await fold([record], last_command_seq)
            last_command_seq = one.last_command_seq
            yield one
    else:
        yield together


class _Waiting:
    """What has been read and not yet been folded, bounded in bytes."""

    def __init__(self) -> None:
        self._records: deque[LogRecord] = deque()
        self._bytes = 0
        self._failure: Exception | None = None
        self._changed = asyncio.Event()

    async def put(self, records: list[LogRecord]) -> None:
        """Add records; returns when there is room for more."""
        self._records.extend(records)
        self._bytes += sum(len(record.payload) for record in records)
        self._changed.set()
        while self._bytes > _READ_BYTES:
            await self._change()

    def fail(self, error: Exception) -> None:
        """There will be no more: whoever has taken the last gets `error`."""
        self._failure = error
        self._changed.set()

    async def take(self, at_most_bytes: int) -> list[LogRecord]:
        """The oldest records, at least one; waits for it."""
        while not self._records:
            if self._failure is not None:
                raise self._failure
            await self._change()
        taken: list[LogRecord] = []
        size = 0
        while self._records and (not taken or size < at_most_bytes):
            record = self._records.popleft()
            taken.append(record)
            size += len(record.payload)
        self._bytes -= size
        self._changed.set()
        return taken

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
