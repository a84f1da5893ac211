"""Follows the log into PostgreSQL: one job keeps every entry, one applies it to the books.

The archive is quick and tells the engine how much of the log is safe; the ledger follows behind it.
Both start where PostgreSQL says they are, so a crash at any point neither loses nor doubles.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterable, Iterator

import asyncpg
import structlog

from kernel.clock import Clock, SystemClock
from mesh.log import ChainBroken, LogReader, LogRecord, LogTrimmed, verify_chain
from mesh.telemetry import SpanRecorder, TraceContext
from services.settlement.codec import fold
from services.settlement.domain.batch import TracedCommand
from services.settlement.domain.ledger import PoisonEntry
from services.settlement.store.applying import (
    Progress,
    apply_batch,
    read_market_assets,
    read_progress,
)
from services.settlement.store.archive import (
    archive_position,
    archive_rows,
    iterate_archive,
    write_archive,
)
from services.settlement.store.database import Connection, Superseded
from services.settlement.store.sessions import finish, run_alone

# First halves of the advisory lock keys; the second is the shard.
_ARCHIVE_LOCK, _APPLY_LOCK = 0x7469_0001, 0x7469_0002
# An entry may hold a thousand commands: read few at once, and close a transaction by bytes.
_READ_ENTRIES = 100
_TRANSACTION_BYTES = 512 << 10

log = structlog.get_logger()


class Archiver:
    """Copies the log to the archive, checking its hash chain on the way."""

    def __init__(self, pool: asyncpg.Pool, reader: LogReader, shard: int) -> None:
        self._pool = pool
        self._reader = reader
        self._shard = shard

    async def run(self) -> None:
        """For ever. Raises `ChainBroken` when the log is not the one archived so far."""
        await run_alone(
            self._pool,
            job="archive",
            lock=(_ARCHIVE_LOCK, self._shard),
            work=self._work,
            standby=lambda: None,
        )

    async def _work(self, connection: Connection, succeeded: Callable[[], None]) -> None:
        seq, last_hash = await archive_position(connection, self._shard)
        log.info("archive_follows", after_seq=seq)
        follow = self._reader.follow(seq, after_hash=last_hash, batch=_READ_ENTRIES)
        async for records in follow:
            rows = await asyncio.to_thread(archive_rows, self._shard, records)
            try:
                await finish(write_archive(connection, rows))
            except asyncpg.UniqueViolationError as error:
                raise Superseded("another process archives the log") from error
            succeeded()


class Applier:
    """Applies the log to ledger, history and transfers, exactly once."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        reader: LogReader,
        shard: int,
        *,
        recorder: SpanRecorder | None = None,
        clock: Clock | None = None,
    ) -> None:
        # Set when this process follows the log, or stands by for one that does.
        self.ready = asyncio.Event()
        self._pool = pool
        self._reader = reader
        self._shard = shard
        self._recorder = recorder
        self._clock = clock or SystemClock()
        self._market_assets: dict[int, tuple[int, int]] = {}

    async def run(self) -> None:
        """For ever. Raises `PoisonEntry` at an entry that cannot be applied, `ChainBroken` when
        the log is not the one applied so far; everything before it is applied by then.
        """
        try:
            await run_alone(
                self._pool,
                job="apply",
                lock=(_APPLY_LOCK, self._shard),
                work=self._work,
                standby=self.ready.set,
            )
        except PoisonEntry as error:
            log.critical("poison_entry", log_seq=error.log_seq, problem=error.problem)
            raise
        except ChainBroken as error:
            log.critical("log_chain_broken", problem=str(error))
            raise

    async def _work(self, connection: Connection, succeeded: Callable[[], None]) -> None:
        progress = await read_progress(connection, self._shard)
        self._market_assets = await read_market_assets(connection)
        log.info("ledger_follows", after_seq=progress.seq)
        self.ready.set()
        async for records in self._entries(connection, progress):
            read_ns = self._clock.now_ns()
            for part in _parts(records):
                progress = await self._apply(connection, part, progress, read_ns)
                succeeded()

    async def _entries(
        self, connection: Connection, start: Progress
    ) -> AsyncIterator[list[LogRecord]]:
        """Entries after `start`: from the log, and from the archive what the log has trimmed."""
        seq, last_hash = start.seq, start.hash
        while True:
            try:
                follow = self._reader.follow(seq, after_hash=last_hash, batch=_READ_ENTRIES)
                async for records in follow:
                    yield records
                    seq, last_hash = records[-1].seq, records[-1].hash
            except LogTrimmed:
                trimmed_at = seq
                log.info("ledger_reads_archive", after_seq=seq)
                async for records in iterate_archive(connection, self._shard, seq):
                    verify_chain(records, after_seq=seq, after_hash=last_hash)
                    yield records
                    seq, last_hash = records[-1].seq, records[-1].hash
                if seq == trimmed_at:
                    raise

    async def _apply(
        self, connection: Connection, records: list[LogRecord], progress: Progress, read_ns: int
    ) -> Progress:
        try:
            return await finish(self._apply_once(connection, records, progress, read_ns))
        except (PoisonEntry, asyncpg.IntegrityConstraintViolationError) as error:
            if len(records) == 1:
                raise PoisonEntry(records[0].seq, str(error)) from error
        # One of them cannot be applied: apply those before it, and find out which.
        for record in records:
            progress = await self._apply(connection, [record], progress, read_ns)
        return progress

    async def _apply_once(
        self, connection: Connection, records: list[LogRecord], progress: Progress, read_ns: int
    ) -> Progress:
        # In a thread, so that calls are answered meanwhile.
        batch, last_command_seq = await asyncio.to_thread(
            fold,
            records,
            shard=self._shard,
            last_command_seq=progress.last_command_seq,
            market_assets=self._market_assets,
        )
        after = await apply_batch(
            connection,
            self._shard,
            batch,
            progress,
            seq=records[-1].seq,
            log_hash=records[-1].hash,
            last_command_seq=last_command_seq,
            now_ns=self._clock.now_ns(),
        )
        self._market_assets = batch.market_assets
        self._record_spans(batch.traced, read_ns)
        log.debug(
            "ledger_applied",
            log_seq=after.seq,
            transactions=len(batch.transactions),
            orders=len(batch.order_changes),
        )
        return after

    def _record_spans(self, commands: Iterable[TracedCommand], read_ns: int) -> None:
        if self._recorder is None:
            return
        now_ns = self._clock.now_ns()
        for trace_id, parent, log_seq, order_id in commands:
            # Derived, so that an entry applied again after a crash makes the same span again.
            span_id = hashlib.sha256(b"settlement.apply%d" % log_seq + parent).digest()[:8]
            self._recorder.record(
                "settlement.apply",
                TraceContext(trace_id, span_id),
                parent,
                read_ns,
                now_ns,
                log_seq=log_seq,
                order_id=order_id,
            )


def _parts(records: list[LogRecord]) -> Iterator[list[LogRecord]]:
    """Cut into transactions of a bounded size, at least one record each."""
    sizes = itertools.accumulate(len(record.payload) for record in records)
    numbered = zip((size // _TRANSACTION_BYTES for size in sizes), records, strict=True)
    for _, group in itertools.groupby(numbered, key=lambda item: item[0]):
        yield [record for _, record in group]
