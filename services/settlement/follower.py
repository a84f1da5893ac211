"""Follows the log into PostgreSQL: one job keeps every entry, one applies it to the books.

The archive is quick and tells the engine how much of the log is safe; the ledger follows behind it.
Both start where PostgreSQL says they are, so a crash at any point neither loses nor doubles.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable

import asyncpg
import structlog

from kernel.clock import Clock, SystemClock
from mesh.aio import in_steps
from mesh.log import ChainBroken, LogReader, LogRecord, LogTrimmed, verify_chain
from mesh.telemetry import SpanRecorder, TraceContext, derived_id
from services.settlement.ahead import Folded, folded_ahead
from services.settlement.codec import folding
from services.settlement.domain.ledger import PoisonEntry
from services.settlement.domain.rows import MarketRow, TracedCommand
from services.settlement.halts import Halts
from services.settlement.store.applying import Progress, apply_batch, read_markets, read_progress
from services.settlement.store.archive import (
    archive_end,
    archive_rows,
    read_archive,
    write_archive,
)
from services.settlement.store.database import Connection, Superseded
from services.settlement.store.partitions import Months
from services.settlement.store.sessions import finish, run_alone

# First halves of the advisory lock keys; the second is the shard.
ARCHIVE_LOCK, APPLY_LOCK = 0x7469_0001, 0x7469_0002
# An entry may hold a thousand commands: read few at once.
_READ_ENTRIES = 100
# How often the archive is looked at by a ledger that is quicker.
_ARCHIVE_SECONDS = 0.01
# The tables of what is open may be empty when a statement first runs and large a minute later: it
# is planned each time, for what there is to do.
_PLANS = "set plan_cache_mode = force_custom_plan"
ARCHIVE, APPLY = "archive", "apply"
_SPAN = "settlement.apply"

log = structlog.get_logger()


class Archiver:
    """Copies the log to the archive, checking its hash chain on the way."""

    def __init__(self, pool: asyncpg.Pool, reader: LogReader, shard: int, halts: Halts) -> None:
        self._pool = pool
        self._reader = reader
        self._shard = shard
        self._halts = halts

    async def run(self) -> None:
        """For ever; halts when the log is not the one archived so far."""
        try:
            await run_alone(
                self._pool,
                job=ARCHIVE,
                lock=(ARCHIVE_LOCK, self._shard),
                work=self._work,
                standby=lambda: None,
            )
        except ChainBroken as error:
            self._halts.halt(ARCHIVE, 0, str(error))

    async def _work(self, connection: Connection, succeeded: Callable[[], None]) -> None:
        end = await archive_end(connection, self._shard)
        link = end.link
        log.info("archive_follows", after_seq=end.seq)
        follow = self._reader.follow(end.seq, after_hash=end.hash, batch=_READ_ENTRIES)
        async for records in follow:
            rows, link = await asyncio.to_thread(archive_rows, self._shard, records, link)
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
        halts: Halts,
        *,
        recorder: SpanRecorder | None = None,
        clock: Clock | None = None,
    ) -> None:
        # Set when this process follows the log, or stands by for one that does.
        self.ready = asyncio.Event()
        self._pool = pool
        self._reader = reader
        self._shard = shard
        self._halts = halts
        self._recorder = recorder
        self._clock = clock or SystemClock()
        self._months = Months()
        self._markets: dict[int, MarketRow] = {}

    async def run(self) -> None:
        """For ever; halts at an entry that cannot be applied, and when the log is not the one
        applied so far. Everything before it is applied by then, and nothing of it.
        """
        try:
            await run_alone(
                self._pool,
                job=APPLY,
                lock=(APPLY_LOCK, self._shard),
                work=self._work,
                standby=self.ready.set,
            )
        except PoisonEntry as error:
            self._halts.halt(APPLY, error.log_seq, error.problem)
        except ChainBroken as error:
            self._halts.halt(APPLY, 0, str(error))

    async def _work(self, connection: Connection, succeeded: Callable[[], None]) -> None:
        progress = await read_progress(connection, self._shard)
        self._markets = await read_markets(connection)
        await connection.execute(_PLANS)
        log.info("ledger_follows", after_seq=progress.seq)
        self.ready.set()
        fold_ahead = folded_ahead(self._entries(progress), self._fold, progress.last_command_seq)
        async with fold_ahead as batches:
            async for folded in batches:
                progress = await self._apply(connection, folded, progress)
                succeeded()

    async def _entries(self, start: Progress) -> AsyncIterator[list[LogRecord]]:
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
                while records := await self._archived(seq):
                    verify_chain(records, after_seq=seq, after_hash=last_hash)
                    yield records
                    seq, last_hash = records[-1].seq, records[-1].hash
                if seq == trimmed_at:
                    raise

    async def _archived(self, after_seq: int) -> list[LogRecord]:
        async with self._pool.acquire() as connection:
            return await read_archive(connection, self._shard, after_seq, _READ_ENTRIES)

    async def _fold(self, records: list[LogRecord], last_command_seq: int) -> Folded:
        read_ns = self._clock.now_ns()
        # Not in a thread: that would hold up every answer of PostgreSQL's by its turn of the
        # interpreter, and a batch takes many.
        batch, last = await in_steps(
            folding(
                records,
                shard=self._shard,
                last_command_seq=last_command_seq,
                markets=self._markets,
            )
        )
        self._markets = batch.known
        return Folded(records, batch, last, read_ns)

    async def _apply(self, connection: Connection, folded: Folded, progress: Progress) -> Progress:
        records = folded.records
        # The ledger is never ahead of the archive, so all of it can be had again from there.
        while (await archive_end(connection, self._shard)).seq < records[-1].seq:
            await asyncio.sleep(_ARCHIVE_SECONDS)
        try:
            return await finish(self._apply_once(connection, folded, progress))
        except (PoisonEntry, asyncpg.IntegrityConstraintViolationError) as error:
            if len(records) == 1:
                problem = error.problem if isinstance(error, PoisonEntry) else str(error)
                raise PoisonEntry(records[0].seq, problem) from error
        # One of them cannot be applied: apply those before it, and find out which.
        for record in records:
            one = await self._fold([record], progress.last_command_seq)
            progress = await self._apply(connection, one, progress)
        return progress

    async def _apply_once(
        self, connection: Connection, folded: Folded, progress: Progress
    ) -> Progress:
        batch, newest = folded.batch, folded.records[-1]
        await self._months.ensure(connection, batch.first_time_ns, batch.time_ns)
        after = await apply_batch(
            connection,
            self._shard,
            batch,
            progress,
            seq=newest.seq,
            log_hash=newest.hash,
            last_command_seq=folded.last_command_seq,
            now_ns=self._clock.now_ns(),
        )
        self._record_spans(batch.traced, folded.read_ns)
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
        record = self._recorder.record
        for trace_id, parent, log_seq, order_id, time_ns in commands:
            # Derived, so that an entry applied again after a crash makes the same span again.
            record(
                _SPAN,
                TraceContext(trace_id, derived_id(parent, _SPAN, log_seq)),
                parent,
                read_ns,
                now_ns,
                at_ns=time_ns,
                log_seq=log_seq,
                order_id=order_id,
            )
