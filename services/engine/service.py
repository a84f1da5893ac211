"""The engine as its servicers see it: recovery at the start, one way in for commands, reads of what
is durable, and an orderly end.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from kernel.clock import Clock
from kernel.markets import DEFAULT_ASSETS, Asset, Market, default_markets
from kernel.reasons import Reason, Refused
from mesh.aio import cancel_and_wait, supervise
from mesh.config import Settings
from mesh.log import GENESIS_HASH, LogReader, LogWriter
from mesh.telemetry import SpanRecorder, TraceContext, current_trace, new_trace
from services.engine import snapshots
from services.engine.archive import Archive
from services.engine.codec import MarketTexts
from services.engine.domain import commands as c
from services.engine.domain import events as e
from services.engine.domain.configuration import configuration
from services.engine.domain.exchange import Exchange
from services.engine.encode import Encoder, accepted
from services.engine.lease import Lease
from services.engine.peers import fetch_snapshot
from services.engine.projection import Projection
from services.engine.recovery import Recovered, Replayer
from services.engine.snapshot import Snapshotter
from services.engine.snapshots import SnapshotStore
from services.engine.spans import Tracer
from services.engine.submission import (
    UNTRACED,
    CommandSpan,
    Item,
    Outcome,
    Submission,
    span_below,
)
from services.engine.watch import AccountFeeds
from services.engine.writer import Committed, Writer, WriterLimits

T = TypeVar("T")
_TICK_SECONDS = 1.0
# A snapshot of this many open orders takes a moment only.
_LAST_SNAPSHOT_ORDERS = 20_000
_SECOND = 1_000_000_000

log = structlog.get_logger()


class MarketMoved(Exception):
    """The settings give a market to another shard than the one whose log has it."""


class Engine:
    """One engine process. `start` it, then `submit` and read; `close` it at the end."""

    def __init__(
        self,
        settings: Settings,
        redis: Redis,
        recorder: SpanRecorder,
        clock: Clock,
        *,
        archive: Archive | None = None,
        assets: Sequence[Asset] = DEFAULT_ASSETS,
        markets: Sequence[Market] | None = None,
    ) -> None:
        self.clock = clock
        self.settings = settings
        self._projection = Projection()
        self._texts = MarketTexts(settings.shard_map, settings.shard)
        self.encoder = Encoder(self._projection, self._texts)
        self._feeds = AccountFeeds(self._projection, self.encoder)
        self.log_reader = LogReader(redis, settings.shard)
        self.epoch = 0
        self._redis = redis
        listed = settings.shard_map.markets_of(settings.shard, markets or default_markets())
        self._configuration = configuration(assets, listed)
        self._exchange = Exchange()
        self._replayer = Replayer(self._exchange, self._projection, self._feeds)
        self._texts_of: dict[int, Market] = {}
        self._readable = False
        self._leading = False
        self._archive = archive
        self._tracer = Tracer(recorder)
        self._snapshots = SnapshotStore.of(settings)
        self._snapshotter = Snapshotter(settings, self._snapshots)
        self._name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._lease = Lease(
            redis,
            settings.shard,
            name=self._name,
            address=f"{settings.public_host}:{settings.engine_port}",
            seconds=settings.lease_seconds,
        )
        self._writer: Writer | None = None
        self._running: asyncio.Task[Any] | None = None
        self._helpers: list[asyncio.Task[Any]] = []
        self._streams = 0
        self._trimmed_seq = 0

    async def start(self) -> Recovered:
        """Recover, wait until this engine may lead, and take commands; see the steps."""
        recovered = await self.recover()
        await self.lead()
        return recovered

    async def recover(self) -> Recovered:
        """Recover from snapshot and log; from then on reads are answered.

        Raises `mesh.log.LogError` and `recovery.ReplayMismatch`; then the log must not be written.
        """
        await fetch_snapshot(self.settings, self._snapshots)
        recovered = await self._replayer.replay(
            self.log_reader, self._snapshots, archive=self._archive
        )
        self._exchange = self._replayer.exchange
        self._note_followed()
        self._readable = True
        self._helpers.append(supervise(self._snapshotter.run(), "snapshots"))
        return recovered

    async def lead(self) -> None:
        """Follow the log until the lease is ours, then become the log's writer.

        Raises what `recover` raises, and `mesh.log.Fenced` when another engine was quicker.
        """
        following = supervise(self._follow(), "follower")
        try:
            await self._lease.acquire()
        finally:
            await cancel_and_wait(following)
        self._helpers.append(supervise(self._lease.keep(self._lease_lost), "lease"))
        await self._replayer.catch_up(self.log_reader)
        await self._write()

    async def _follow(self) -> None:
        """Apply what the leader writes, for ever."""
        projection = self._projection
        batches = self.log_reader.follow(
            projection.seq, after_hash=projection.log_hash or GENESIS_HASH
        )
        async with aclosing(batches):
            async for records in batches:
                for record in records:
                    self._replayer.apply(record)
                self._note_followed()

    def _note_followed(self) -> None:
        """The read models have moved with the log of another engine."""
        self.epoch = self._exchange.epoch
        if self._texts_of is not self._projection.markets:
            self._texts_of = self._projection.markets
            self._texts.replace(self._texts_of)
        self._snapshotter.committed(self._projection.seq)

    async def _lease_lost(self) -> None:
        """Another engine has the lease. Whether it also has the log is found out by writing to it:
        who is fenced stops, so nobody reads from a leader that is none.
        """
        if self._writer is not None:
            await self._writer.submit(_untraced([c.Tick()], self.clock.now_ns()))

    async def _write(self) -> None:
        """Become the log's writer at the end of what was read, and take commands."""
        self._note_followed()
        seq, log_hash = self._projection.seq, self._projection.log_hash
        self.epoch = self._exchange.epoch + 1
        log_writer = LogWriter(
            self._redis,
            self.settings.shard,
            next_seq=seq + 1,
            last_hash=log_hash or GENESIS_HASH,
        )
        writer = Writer(
            self._exchange,
            self._projection,
            log_writer,
            self.clock,
            WriterLimits(
                batch_max=self.settings.log_batch_max,
                queue_max=self.settings.engine_queue_max,
                append_slow_ns=self.settings.log_append_slow_ms * 1_000_000,
                unarchived_max=self.settings.log_unarchived_max,
            ),
            shard=self.settings.shard,
            epoch=self.epoch,
            publish=self._publish,
        )
        self._writer = writer
        self._running = supervise(writer.run(), "log writer")
        self._helpers += [
            supervise(writer.watch_append(), "append watch"),
            supervise(self._tracer.run(), "tracer"),
        ]
        self._snapshotter.leave_to_followers()
        await self._take_over(writer)
        if self._archive is not None:
            watching = self._archive.watch(partial(self._archived, writer, log_writer))
            self._helpers.append(supervise(watching, "archive watch"))
        self._helpers.append(supervise(self._tick(writer), "ticker"))
        self._leading = True
        log.info("engine_writes", epoch=self.epoch, seq=self._projection.seq)

    async def close(self, seconds: float) -> None:
        """Write what waits, within `seconds`, then stop."""
        at_rest = False
        if self._writer is not None and self._running is not None:
            self._writer.close()
            _, late = await asyncio.wait([self._running], timeout=seconds)
            if late:
                log.error("engine_closed_unwritten", queued=self._writer.queued)
            else:
                at_rest = self._running.exception() is None
        await cancel_and_wait(self._running, *self._helpers)
        await self._lease.release()
        if at_rest:
            self._take_last_snapshot()

    # ------------------------------------------------------------ commands

    @property
    def writer(self) -> Writer:
        """The writer. Raises `Refused(UNAVAILABLE)` unless this engine leads."""
        if self._leading and self._writer is not None:
            return self._writer
        self._ready(self._projection)
        leader = self._lease.leader
        raise Refused(
            Reason.UNAVAILABLE,
            "this engine follows; only the leader takes commands",
            **({"leader": leader} if leader else {}),
        )

    @property
    def projection(self) -> Projection:
        """What is durable: all that may be shown. Like all that follows, it raises
        `Refused(UNAVAILABLE)` until the log has been read.
        """
        return self._ready(self._projection)

    @property
    def feeds(self) -> AccountFeeds:
        """The accounts' private streams."""
        return self._ready(self._feeds)

    @property
    def texts(self) -> MarketTexts:
        """The markets' decimal strings."""
        return self._ready(self._texts)

    def submit(
        self,
        name: str,
        items: list[Item],
        answer: Callable[[int, c.Command | None, Outcome], T],
        *,
        trace: TraceContext | None = None,
    ) -> asyncio.Future[list[T]]:
        """Queue the commands of one request as one span; see `Writer.submit`. Without a `trace`
        they are part of the current call's.
        """
        span = span_below(name, trace or current_trace() or new_trace())
        return self.submit_traced(items, [span] * len(items), answer)

    def submit_traced(
        self,
        items: list[Item],
        spans: Sequence[CommandSpan],
        answer: Callable[[int, c.Command | None, Outcome], T],
    ) -> asyncio.Future[list[T]]:
        """Queue the commands of one message, each with its span; see `Writer.submit`."""
        return self.writer.submit(Submission(items, spans, answer, received_ns=self.clock.now_ns()))

    async def do(
        self,
        name: str,
        item: Item,
        encode: Callable[[Sequence[e.Event]], T],
        *,
        trace: TraceContext | None = None,
    ) -> T:
        """Apply one command and give its answer; raises `Refused` when it is refused."""

        def answer(_: int, command: c.Command | None, outcome: Outcome) -> T | Refused:
            if isinstance(outcome, Refused):
                return outcome
            return self.encoder.refusal(command, outcome) or encode(outcome)

        [result] = await self.submit(name, [item], answer, trace=trace)
        if isinstance(result, Refused):
            raise result
        return result

    async def set_prices(self, prices: tuple[c.PriceUpdate, ...]) -> None:
        """Write external prices into the log, outside of any trace; raises `Refused`."""
        command = c.SetPrices(prices=prices)
        [outcome] = await self.writer.submit(_untraced([command], self.clock.now_ns()))
        if isinstance(outcome, Refused):
            raise outcome
        accepted(outcome)

    @property
    def snapshots(self) -> SnapshotStore:
        """The snapshot files of this engine."""
        return self._snapshots

    def new_stream_id(self) -> int:
        """A number for an order stream that no stream of this log ever had."""
        self._streams += 1
        return (self.epoch << 32) | self._streams

    def cancel_stream(self, account_id: int, stream_id: int) -> None:
        """Cancel the orders of a stream that has ended; nobody waits for it."""
        command = c.CancelAll(
            account_id, stream_id=stream_id, reason=Reason.CANCELLED_ON_DISCONNECT
        )
        self.submit("engine.cancel_on_disconnect", [command], _no_answer)

    # ------------------------------------------------------------ reads

    async def at_rest(self, read: Callable[[Exchange], T]) -> T:
        """Read the core itself while it is at the log's position."""
        if self._writer is not None:
            return await self._writer.at_rest(read)
        # A follower applies whole entries, all of them durable.
        return read(self._ready(self._exchange))

    def log_error(self) -> Refused | None:
        """Why orders are refused now, if they are."""
        try:
            return self.writer.refusal()
        except Refused as refused:
            return refused

    # ------------------------------------------------------------ inside

    def _ready(self, part: T) -> T:
        if not self._readable:
            raise Refused(Reason.UNAVAILABLE, "the engine is still recovering; try again")
        return part

    async def _archived(
        self, writer: Writer, log_writer: LogWriter, archived_seq: int, done_seq: int
    ) -> None:
        """Settlement has archived this much, and applied it up to `done_seq`. What it has done with
        and the oldest snapshot kept has in it need not stay in the log store.
        """
        writer.note_archived(archived_seq)
        oldest = min(self._snapshots.positions(), default=0)
        before_seq = min(oldest, done_seq)
        if before_seq - self._trimmed_seq < self.settings.snapshot_every_entries:
            return
        try:
            # The entry of the snapshot itself stays: recovery compares their hashes.
            removed = await log_writer.trim(before_seq)
        except (RedisError, OSError) as error:
            log.warning("log_not_trimmed", error=str(error))
            return
        self._trimmed_seq = before_seq
        log.info("log_trimmed", before_seq=before_seq, entries=removed)

    def _take_last_snapshot(self) -> None:
        """The next start then has nothing to replay; skipped where it would delay the end."""
        if self._exchange.open_order_count() > _LAST_SNAPSHOT_ORDERS:
            return
        try:
            snapshot = snapshots.take(self._exchange, self._projection, self._feeds)
            self._snapshots.write(snapshot)
        except OSError as error:
            log.error("snapshot_not_written", error=str(error))

    async def _take_over(self, writer: Writer) -> None:
        """The first entry of this writer: its epoch, the configuration if that changed, and the
        end of all order streams that the process before had open.
        """
        shard = self.settings.shard
        items: list[Item] = [c.BeginEpoch(epoch=self.epoch, writer=self._name, shard=shard)]
        configure = self._configure()
        if configure is not None:
            items.append(configure)
        # The process that had these streams is gone, and the streams with it.
        orphans = {
            (order.account_id, order.request.stream_id)
            for account in self._projection.accounts.values()
            for order in account.orders.values()
            if order.request.stream_id
        }
        items.extend(
            c.CancelAll(account_id, stream_id=stream_id, reason=Reason.CANCELLED_ON_DISCONNECT)
            for account_id, stream_id in sorted(orphans)
        )
        for outcome in await writer.submit(_untraced(items, self.clock.now_ns())):
            if isinstance(outcome, Refused):
                raise outcome
            accepted(outcome)
        self._note_followed()

    def _configure(self) -> c.Configure | None:
        """The command that brings the log to the configuration, if anything in that is new.

        What the log knows and the configuration does not stays: it may have money in it.
        """
        known_assets = {asset.asset_id: asset for asset in self._exchange.assets()}
        known_markets = {v.config.market_id: v.config for v in self._exchange.markets()}
        shards, shard = self._texts.shards, self._texts.shard
        moved = [m.name for m in known_markets.values() if shards.of_market(m.name) != shard]
        if moved:
            # Its orders, balances and trade ids are in this log: two shards must not have it.
            raise MarketMoved(f"the log of shard {shard} has markets of other shards: {moved}")
        assets = known_assets | {a.asset_id: a for a in self._configuration.assets}
        markets = known_markets | {m.market_id: m for m in self._configuration.markets}
        if assets == known_assets and markets == known_markets:
            return None
        return c.Configure(assets=tuple(assets.values()), markets=tuple(markets.values()))

    def _publish(self, batch: Committed) -> None:
        self._feeds.publish(batch.seq, batch.time_ns, batch.changes)
        self._tracer.committed(batch)
        self._snapshotter.committed(batch.seq)
        log.debug(
            "entry_committed",
            seq=batch.seq,
            submissions=len(batch.submissions),
            append_ms=round((batch.acked_ns - batch.applied_ns) / 1e6, 2),
        )

    async def _tick(self, writer: Writer) -> None:
        """Let time pass in the log, but only when something is due."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            due_ns = self._exchange.next_due_ns()
            now_ns = self.clock.now_ns()
            if due_ns and due_ns <= now_ns and writer.refusal() is None:
                await writer.submit(_untraced([c.Tick()], now_ns))


def _untraced(items: list[Item], now_ns: int) -> Submission[Outcome]:
    """Work of the engine itself."""
    return Submission(items, [UNTRACED] * len(items), _outcome, received_ns=now_ns)


def _outcome(_: int, __: c.Command | None, outcome: Outcome) -> Outcome:
    return outcome


def _no_answer(_: int, __: c.Command | None, ___: Outcome) -> None:
    """Nobody asked."""
