"""Recovery: the newest good snapshot, then the log after it through the core again, every entry
proven on the way.

The hash chain shows that no entry was changed or is missing; applying the commands must give the
recorded events byte for byte, or the code no longer does what it did and must not write.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import structlog
from google.protobuf.message import DecodeError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from tidebook.engine.v1 import log_pb2

from mesh.aio import Backoff
from mesh.log import (
    GENESIS_HASH,
    ChainBroken,
    LogReader,
    LogRecord,
    LogTrimmed,
    verify_chain,
)
from services.engine import logcodec, snapshots
from services.engine.archive import Archive
from services.engine.domain import events as e
from services.engine.domain.exchange import Exchange
from services.engine.projection import Projection
from services.engine.snapshots import SnapshotStore
from services.engine.watch import AccountFeeds

T = TypeVar("T")
_BATCH = 200
_PROGRESS_SECONDS = 2.0
_NOWHERE = (0, GENESIS_HASH)

log = structlog.get_logger()


class ReplayMismatch(Exception):
    """The log cannot be replayed: the message names the entry and the command."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """Where it ended, and what it took: `snapshot_seq` is where replaying began, 0 without one."""

    seq: int
    log_hash: bytes
    commands: int
    seconds: float
    snapshot_seq: int


class Replayer:
    """Applies recorded entries to a core and the read models beside it, which start empty.

    `exchange` is the core; a snapshot replaces the one it was made with.
    """

    def __init__(self, exchange: Exchange, projection: Projection, feeds: AccountFeeds) -> None:
        self.exchange = exchange
        self._projection = projection
        self._feeds = feeds

    async def replay(
        self,
        reader: LogReader,
        store: SnapshotStore | None = None,
        *,
        archive: Archive | None = None,
        stop_at_tail: bool = False,
    ) -> Recovered:
        """Restore the newest good snapshot of `store` and read the log from there to its end,
        waiting for the log's store if it must. What the log has forgotten, because no snapshot was
        good, comes from `archive`. With `stop_at_tail` the end is where it was at the
        start, however fast it grows.

        Raises `mesh.log.LogError` for a broken chain or a snapshot that does not belong to this
        log, and `ReplayMismatch`.
        """
        began = reported = time.monotonic()
        last_seq = await _patiently(reader.last_seq)
        log.info("recovery_started", entries=last_seq)
        seq, log_hash = await self._restore(reader, store, last_seq) if store else _NOWHERE
        snapshot_seq, commands = seq, self.exchange.last_command_seq
        while not (stop_at_tail and seq >= last_seq):
            wanted = min(_BATCH, last_seq - seq) if stop_at_tail else _BATCH
            try:
                records = await _patiently(partial(reader.read, seq, wanted))
            except LogTrimmed:
                if archive is None:
                    raise
                before = seq
                seq, log_hash = await self._from_archive(archive, seq, log_hash)
                if seq == before:
                    raise
                continue
            if not records:
                break
            log_hash = verify_chain(records, after_seq=seq, after_hash=log_hash)
            for record in records:
                self.apply(record)
            seq = records[-1].seq
            if time.monotonic() - reported > _PROGRESS_SECONDS:
                reported = time.monotonic()
                log.info("recovery_progress", seq=seq, of=last_seq)
            # Health checks want an answer meanwhile.
            await asyncio.sleep(0)
        self._compare_balances()
        commands = self.exchange.last_command_seq - commands
        seconds = time.monotonic() - began
        log.info(
            "recovery_finished",
            seq=seq,
            snapshot_seq=snapshot_seq,
            commands=commands,
            seconds=round(seconds, 3),
            open_orders=self.exchange.open_order_count(),
        )
        return Recovered(seq, log_hash, commands, seconds, snapshot_seq)

    async def _from_archive(self, archive: Archive, seq: int, log_hash: bytes) -> tuple[int, bytes]:
        """Apply what is archived after a position; returns position and hash of its end."""
        log.warning("recovery_reads_the_archive", after_seq=seq)
        async with aclosing(archive.read(seq)) as batches:
            async for records in batches:
                log_hash = verify_chain(records, after_seq=seq, after_hash=log_hash)
                for record in records:
                    self.apply(record)
                seq = records[-1].seq
        return seq, log_hash

    async def catch_up(self, reader: LogReader) -> None:
        """Apply what the log has after the read model's position; raises what `replay` raises."""
        projection = self._projection
        while records := await _patiently(partial(reader.read, projection.seq, _BATCH)):
            verify_chain(
                records, after_seq=projection.seq, after_hash=projection.log_hash or GENESIS_HASH
            )
            for record in records:
                self.apply(record)

    async def _restore(
        self, reader: LogReader, store: SnapshotStore, last_seq: int
    ) -> tuple[int, bytes]:
        """Position and hash of the newest good snapshot, restored; the start if there is none."""
        candidates = store.newest_first()
        # In a thread, because health checks want an answer meanwhile.
        while (snapshot := await asyncio.to_thread(next, candidates, None)) is not None:
            if snapshot.seq > last_seq:
                raise ChainBroken(
                    f"the log ends at {last_seq} and there is a snapshot of {snapshot.seq}: the"
                    " store lost entries, or this is another log"
                )
            here = await _patiently(partial(reader.get, snapshot.seq))
            # A trimmed entry cannot be compared; then the next one must continue from this hash.
            if here is not None and here.hash != snapshot.log_hash:
                raise ChainBroken(f"the snapshot of {snapshot.seq} is of another log than this")
            try:
                self.exchange = await asyncio.to_thread(
                    snapshots.restore, snapshot, self._projection, self._feeds
                )
            except ValueError as error:
                log.error("snapshot_skipped", seq=snapshot.seq, error=str(error))
                continue
            log.info("snapshot_restored", seq=snapshot.seq, epoch=snapshot.epoch)
            return snapshot.seq, snapshot.log_hash
        return _NOWHERE

    def apply(self, record: LogRecord) -> None:
        """Apply one entry and compare. Raises `ReplayMismatch`."""
        entry = log_pb2.LogEntry()
        try:
            entry.ParseFromString(record.payload)
        except DecodeError as error:
            raise ReplayMismatch(f"entry {record.seq} is not a log entry") from error
        if entry.seq != record.seq:
            raise ReplayMismatch(f"entry {record.seq} says that it is {entry.seq}")
        exchange, projection = self.exchange, self._projection
        projection.begin_entry(record.seq, entry.time_ns)
        for logged in entry.commands:
            command = logcodec.decode_command(logged)
            events = exchange.apply(command, entry.time_ns)
            if logged.command_seq != exchange.last_command_seq:
                raise ReplayMismatch(
                    f"entry {record.seq}: command {logged.command_seq} is number"
                    f" {exchange.last_command_seq} here"
                )
            _compare(record.seq, logged, events)
            projection.apply(command, events)
        self._feeds.publish(record.seq, entry.time_ns, projection.end_entry(record.hash))

    def _compare_balances(self) -> None:
        """The core's balances must be those that the events alone give."""
        exchange, projection = self.exchange, self._projection
        for account_id in exchange.accounts():
            ours = projection.balances_of(account_id)
            for asset_id, theirs in exchange.account(account_id).items():
                balance = ours.get(asset_id)
                units = (balance.free_units, balance.held_units) if balance else (0, 0)
                if units != (theirs.free_units, theirs.held_units):
                    raise ReplayMismatch(
                        f"account {account_id}, asset {asset_id}: events give {units}, the core has"
                        f" {(theirs.free_units, theirs.held_units)}"
                    )


def _compare(seq: int, logged: log_pb2.LoggedCommand, events: Sequence[e.Event]) -> None:
    again = log_pb2.LoggedCommand()
    logcodec.add_events(again, events)
    if _event_bytes(again) != _event_bytes(logged):
        raise ReplayMismatch(
            f"entry {seq}, command {logged.command_seq} ({logged.WhichOneof('command')}): replay"
            " gives other events than the log has; this code must not write to this log"
        )


def _event_bytes(logged: log_pb2.LoggedCommand) -> list[bytes]:
    return [event.SerializeToString(deterministic=True) for event in logged.events]


async def _patiently(read: Callable[[], Awaitable[T]]) -> T:
    """What `read` gives, tried again while the store cannot be reached."""
    backoff = Backoff(first_seconds=0.1, most_seconds=2.0)
    while True:
        try:
            return await read()
        except (RedisConnectionError, RedisTimeoutError, OSError) as error:
            log.warning("recovery_waits_for_the_log", error=str(error))
            await backoff.wait()
