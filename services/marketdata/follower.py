"""Follows the log: the engine's books first, then every entry after them, without a gap."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import grpc
import structlog
from redis.exceptions import RedisError
from tidebook.engine.v1 import internal_pb2, internal_pb2_grpc, log_pb2

from kernel.clock import NS_PER_SECOND, Clock
from mesh.aio import Backoff
from mesh.archive import ArchiveReader
from mesh.log import (
    GENESIS_HASH,
    ChainBroken,
    LogReader,
    LogRecord,
    LogTrimmed,
    verify_chain,
)
from mesh.telemetry import SpanRecorder, TraceContext, derived_id
from services.marketdata.domain.candles import CandleSource
from services.marketdata.domain.intervals import Interval
from services.marketdata.domain.ticker import WINDOW_SECONDS
from services.marketdata.domain.trades import RECENT_TRADES
from services.marketdata.history import History
from services.marketdata.projection import Projection
from services.marketdata.publisher import Publisher
from services.marketdata.store import Position, PostgresHistory

# How long after the end of a candle the log is still waited for: an entry gets its time when it is
# applied, and is in the log a moment later.
CANDLE_GRACE_NS = 2 * NS_PER_SECOND
_CLOSE_EVERY_SECONDS = 0.5
_SPAN = "marketdata.publish"

log = structlog.get_logger()


class LogFollower:
    """Feeds the log into the projection and what comes of it to the publisher."""

    def __init__(
        self,
        engine: internal_pb2_grpc.EngineInternalServiceAsyncStub,
        reader: LogReader,
        archive: ArchiveReader,
        store: PostgresHistory,
        history: History,
        projection: Projection,
        publisher: Publisher,
        spans: SpanRecorder,
        clock: Clock,
    ) -> None:
        self._engine = engine
        self._reader = reader
        self._archive = archive
        self._store = store
        self._history = history
        self._projection = projection
        self._publisher = publisher
        self._spans = spans
        self._clock = clock
        self._seq = 0
        # Set once the books are in and history has caught up with them.
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Follow until cancelled.

        Raises `ChainBroken` when the log is not what it was and `BookDiverged` when it does not
        fit the books: then nothing more may be published.
        """
        snapshot = await self._snapshot()
        self._projection.load_books(snapshot)
        start = Position(snapshot.log_seq, snapshot.log_hash)
        stored = await self._restore_history()
        if stored.seq < snapshot.log_seq:
            start = stored
        self._seq = start.seq
        log.info("books_loaded", seq=snapshot.log_seq, history_seq=self._projection.history_seq)
        if self._seq >= snapshot.log_seq:
            self.ready.set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._close_candles())
            async with aclosing(self._entries(start)) as entries:
                async for records in entries:
                    self._take(records)
                    if self._seq >= snapshot.log_seq:
                        self.ready.set()
                    # While history cannot be written, memory must not grow with the log.
                    await self._history.room()

    async def _snapshot(self) -> internal_pb2.GetBookSnapshotResponse:
        """The engine's books; waits until it answers."""
        backoff = Backoff(first_seconds=0.2, most_seconds=3.0)
        request = internal_pb2.GetBookSnapshotRequest(shard=self._store.shard)
        while True:
            try:
                return await self._engine.GetBookSnapshot(request)
            except grpc.aio.AioRpcError as error:
                log.info("engine_awaited", code=error.code().name, why=error.details())
                await backoff.wait()

    async def _restore_history(self) -> Position:
        """Take trades and candles up where they were left."""
        stored = await self._store.position() or Position(0, b"")
        if stored.seq > await self._reader.last_seq():
            raise ChainBroken(f"history is at {stored.seq}, which the log has not reached")
        self._projection.history_seq = stored.seq
        newest = await self._store.newest_candles(CandleSource.CLOB)
        now_s = self._clock.now_ns() // NS_PER_SECOND
        for name, state in self._projection.markets.items():
            state.candles.restore(candle for candle in newest if candle.market == name)
            minutes = await self._store.candles(
                CandleSource.CLOB,
                name,
                Interval.M1,
                start_s=now_s - WINDOW_SECONDS,
                end_s=now_s + WINDOW_SECONDS,
                limit=2 * WINDOW_SECONDS // 60,
            )
            state.day.restore(reversed(minutes))
            trades = await self._store.trades(
                name, before_trade_id=(1 << 63) - 1, limit=RECENT_TRADES
            )
            complete = len(trades) < RECENT_TRADES
            state.trades.restore(reversed(trades), 0 if complete else trades[-1].seq)
        return stored

    async def _entries(self, after: Position) -> AsyncGenerator[Sequence[LogRecord], None]:
        """Every entry after a position, for ever: from the log, and what that has forgotten from
        settlement's archive. Raises `ChainBroken`.
        """
        seq, log_hash = after.seq, after.hash or GENESIS_HASH
        while True:
            try:
                async with aclosing(self._reader.follow(seq, after_hash=log_hash)) as batches:
                    async for records in batches:
                        seq, log_hash = records[-1].seq, records[-1].hash
                        yield records
            except LogTrimmed as trimmed:
                log.warning("archive_read", after_seq=seq, why=str(trimmed))
            before = seq
            async with aclosing(self._archive.read(seq)) as archived:
                async for records in archived:
                    log_hash = verify_chain(records, after_seq=seq, after_hash=log_hash)
                    seq = records[-1].seq
                    yield records
            if seq == before:
                raise ChainBroken(f"entry {seq + 1} is neither in the log nor in the archive")

    def _take(self, records: Sequence[LogRecord]) -> None:
        for record in records:
            read_ns = self._clock.now_ns()
            entry = log_pb2.LogEntry.FromString(record.payload)
            live = record.seq > self._projection.book_seq
            applied = self._projection.apply(entry)
            self._publisher.on_entry(applied)
            self._history.advance(Position(record.seq, record.hash))
            self._seq = record.seq
            if live:
                self._record_spans(entry, read_ns)

    def _record_spans(self, entry: log_pb2.LogEntry, read_ns: int) -> None:
        done_ns = self._clock.now_ns()
        record, seq, taken_ns = self._spans.record, entry.seq, entry.taken_ns
        last_span_id = b""
        for command in entry.commands:
            span_id = command.span_id
            # Those of one message have one span, and all that is said of it is the same.
            if span_id and span_id != last_span_id and command.trace_id:
                last_span_id = span_id
                context = TraceContext(command.trace_id, derived_id(span_id, _SPAN, seq))
                record(_SPAN, context, span_id, read_ns, done_ns, at_ns=taken_ns, log_seq=seq)

    async def _close_candles(self) -> None:
        """Close candles by the clock, but only while everything in the log has been read."""
        while True:
            await asyncio.sleep(_CLOSE_EVERY_SECONDS)
            until_ns = self._clock.now_ns() - CANDLE_GRACE_NS
            try:
                last_seq = await self._reader.last_seq()
            except (RedisError, OSError):
                continue
            if last_seq == self._seq:
                self._publisher.on_candles(self._projection.close_candles(until_ns))
