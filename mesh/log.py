"""The log: one totally ordered, hash-chained Redis stream per engine shard.

Entry ids are written explicitly (`<seq>-0`), so Redis itself refuses a second writer at the same
position. Each entry carries `hash = sha256(previous hash || payload)`; whoever reads checks it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from mesh.aio import Backoff, raise_if_cancelled
from mesh.redis import OwnConnection

GENESIS_HASH = bytes(32)
_PAYLOAD, _HASH = b"p", b"h"
# Answers of a store that may well take the entry later: a full disk or memory, a server that loads
# its data or has just become a replica.
_PASSING = ("MISCONF", "OOM", "LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "NOREPLICAS")

log = structlog.get_logger()


class LogError(Exception):
    """The log is not what it has to be; the reader or writer must stop."""


class Fenced(LogError):
    """Another writer owns this position of the log: this one has lost its authority."""


class ChainBroken(LogError):
    """An entry is missing, was changed, or the store has lost acknowledged entries."""


class LogTrimmed(ChainBroken):
    """The wanted position is older than the oldest entry kept; read the archive instead."""


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One entry: `seq` counts from 1 without a gap, `hash` seals it and all before it."""

    seq: int
    payload: bytes
    hash: bytes


def log_key(shard: int) -> str:
    """The stream's key; the braces keep everything of a shard on one Redis Cluster node."""
    return f"tidebook:{{{shard}}}:log"


def chain_hash(previous: bytes, payload: bytes) -> bytes:
    """sha256(previous hash || payload)."""
    return hashlib.sha256(previous + payload).digest()


def verify_chain(records: Iterable[LogRecord], *, after_seq: int, after_hash: bytes) -> bytes:
    """Check that `records` continue the chain; returns the last hash. Raises `ChainBroken`."""
    seq, previous = after_seq, after_hash
    for record in records:
        seq += 1
        if record.seq != seq:
            raise ChainBroken(f"entry {seq} is missing: {record.seq} follows {seq - 1}")
        previous = chain_hash(previous, record.payload)
        if record.hash != previous:
            raise ChainBroken(f"entry {seq} does not continue the hash chain")
    return previous


class LogWriter:
    """Appends to the log, one entry at a time. `next_seq` and `last_hash` are where it goes on.

    A payload must name its writer: two writers with equal bytes for one position would both believe
    that the entry is theirs.
    """

    def __init__(
        self, redis: Redis, shard: int, *, next_seq: int = 1, last_hash: bytes = GENESIS_HASH
    ) -> None:
        self.next_seq = next_seq
        self.last_hash = last_hash
        self._redis = redis
        self._connection = OwnConnection(redis)
        self._key = log_key(shard)
        self._reader = LogReader(redis, shard)
        self._appending = asyncio.Lock()
        # The position given at the start is only believed once it was compared with the store.
        self._doubtful = True

    async def append(self, payload: bytes) -> LogRecord:
        """Append one entry; when it returns the entry is in the log, exactly once.

        While the store cannot be reached the same entry is tried again, for as long as it takes.
        Raises `Fenced` when another writer owns the position and `ChainBroken` when the store has
        lost entries. After a cancellation the outcome is unknown: do not use the writer again.
        """
        async with self._appending:
            record = LogRecord(self.next_seq, payload, chain_hash(self.last_hash, payload))
            await self._write(record)
            self.next_seq += 1
            self.last_hash = record.hash
            return record

    async def _write(self, record: LogRecord) -> None:
        backoff = Backoff(first_seconds=0.02, most_seconds=1.0)
        while True:
            try:
                # XADD refuses a position that is taken, but would leave a gap behind a store that
                # restarted without its last entries: after any doubt look before writing.
                if self._doubtful and await self._landed(record):
                    self._doubtful = False
                    return
                self._doubtful = True
                await self._connection.call(
                    b"XADD",
                    self._key.encode(),
                    b"%d-0" % record.seq,
                    *(_PAYLOAD, record.payload),
                    *(_HASH, record.hash),
                )
                self._doubtful = False
                return
            except (RedisConnectionError, RedisTimeoutError, OSError) as error:
                log.warning("log_append_retried", seq=record.seq, error=str(error))
            except ResponseError as error:
                if "equal or smaller" in str(error):
                    # The lost answer to our own write, or another writer: looking tells which.
                    continue
                if not str(error).startswith(_PASSING):
                    raise
                log.error("log_store_refuses", seq=record.seq, error=str(error))
            await backoff.wait()

    async def _landed(self, record: LogRecord) -> bool:
        """Whether the entry is in the log; False means that it can still be written."""
        last_seq = await self._reader.last_seq()
        if last_seq < record.seq - 1:
            raise ChainBroken(
                f"the store lost entries: it ends at {last_seq}, not {record.seq - 1}"
            )
        if last_seq >= record.seq:
            stored = await self._reader.get(record.seq)
            if stored is None or stored.hash != record.hash:
                raise Fenced(f"another writer owns log position {record.seq}")
            return True
        previous = await self._reader.get(last_seq)
        if previous is not None and previous.hash != self.last_hash:
            raise Fenced(f"another writer owns log position {last_seq}")
        return False

    async def trim(self, before_seq: int) -> int:
        """Forget the entries before `before_seq` (archived and snapshotted ones); how many."""
        removed: int = await self._redis.xtrim(self._key, minid=f"{before_seq}-0", approximate=True)
        return removed


async def put_back(redis: Redis, shard: int, records: Iterable[LogRecord]) -> None:
    """Write entries that were in the log before, at their old places: for a store that lost them.

    They may begin anywhere in an empty log. Raises `Fenced` when a place is taken.
    """
    pipeline = redis.pipeline(transaction=False)
    for record in records:
        fields: Any = {_PAYLOAD: record.payload, _HASH: record.hash}
        pipeline.xadd(log_key(shard), fields, id=f"{record.seq}-0")
    try:
        await pipeline.execute()
    except ResponseError as error:
        if "equal or smaller" in str(error):
            raise Fenced("somebody else writes this log") from error
        raise


class LogReader:
    """Reads the log from any position that is still kept."""

    def __init__(self, redis: Redis, shard: int) -> None:
        self._redis = redis
        self._key = log_key(shard)

    async def last_seq(self) -> int:
        """The last position ever written (also when it has been trimmed); 0 for an empty log."""
        try:
            info: dict[str, Any] = await self._redis.xinfo_stream(self._key)
        except ResponseError as error:
            if "no such key" in str(error):
                return 0
            raise
        return _seq(info["last-generated-id"])

    async def tail(self) -> LogRecord | None:
        """The last entry, or None when there is none."""
        rows = await self._redis.xrevrange(self._key, count=1)
        return _first(_records(rows))

    async def get(self, seq: int) -> LogRecord | None:
        """The entry at one position, or None when it is not there (any more, or yet)."""
        rows = await self._redis.xrange(self._key, min=f"{seq}-0", max=f"{seq}-0")
        return _first(_records(rows))

    async def read(self, after_seq: int, count: int) -> list[LogRecord]:
        """Up to `count` entries after a position; empty at the end of the log.

        Their order is checked and, from the second on, their hashes. Raises `LogTrimmed` when the
        first one wanted is no longer kept, `ChainBroken` when the entries do not fit together.
        """
        wanted = f"{after_seq + 1}-0"
        records = _records(await self._redis.xrange(self._key, min=wanted, count=count))
        if not records and after_seq < await self.last_seq():
            # Trimmed, or appended between the two looks.
            records = _records(await self._redis.xrange(self._key, min=wanted, count=count))
            if not records:
                raise LogTrimmed(f"entry {after_seq + 1} is not kept")
        if records:
            first = records[0]
            if first.seq != after_seq + 1:
                raise LogTrimmed(f"entry {after_seq + 1} is not kept; the first is {first.seq}")
            verify_chain(records[1:], after_seq=first.seq, after_hash=first.hash)
        return records

    async def follow(
        self,
        after_seq: int,
        *,
        after_hash: bytes | None = None,
        batch: int = 500,
        block_ms: int = 1000,
    ) -> AsyncGenerator[list[LogRecord], None]:
        """Batches of entries after a position, for ever; waits for new ones and reconnects.

        Every entry's position and hash is checked before it is given out. Without `after_hash` the
        hash of the entry at `after_seq` is looked up (if that one is trimmed, the first entry is
        taken on trust). Raises `LogTrimmed` and `ChainBroken`. Keep `block_ms` below the client's
        socket timeout.
        """
        seq = after_seq
        previous = GENESIS_HASH if after_seq == 0 else after_hash
        backoff = Backoff(first_seconds=0.05, most_seconds=2.0)
        checked = False
        while True:
            try:
                if not checked:
                    await self._check_position(seq, previous)
                    if previous is None and (here := await self.get(seq)) is not None:
                        previous = here.hash
                    checked = True
                answer: Any = await self._redis.xread(
                    {self._key: f"{seq}-0"}, count=batch, block=block_ms
                )
            except (RedisConnectionError, RedisTimeoutError, OSError) as error:
                log.warning("log_follow_reconnects", after_seq=seq, error=str(error))
                checked = False
                await backoff.wait()
                continue
            raise_if_cancelled()
            backoff.reset()
            if not answer:
                continue
            records = _records(answer[0][1])
            if records[0].seq > seq + 1:
                raise LogTrimmed(f"entry {seq + 1} is not kept; the first is {records[0].seq}")
            if previous is None:
                previous = verify_chain(
                    records[1:], after_seq=records[0].seq, after_hash=records[0].hash
                )
            else:
                previous = verify_chain(records, after_seq=seq, after_hash=previous)
            seq = records[-1].seq
            yield records

    async def _check_position(self, seq: int, previous: bytes | None) -> None:
        # A store that came back without its last entries would otherwise be waited on in silence,
        # and the entries written anew would be skipped as seen.
        last_seq = await self.last_seq()
        if last_seq < seq:
            raise ChainBroken(f"the store lost entries: it ends at {last_seq}, we are at {seq}")
        here = await self.get(seq) if seq and previous is not None else None
        if here is not None and here.hash != previous:
            raise ChainBroken(f"entry {seq} is not the one that was read before")


def _records(rows: Any) -> list[LogRecord]:
    return [_record(*row) for row in rows]


def _first(records: list[LogRecord]) -> LogRecord | None:
    return records[0] if records else None


def _record(entry_id: bytes, fields: dict[bytes, bytes]) -> LogRecord:
    try:
        return LogRecord(_seq(entry_id), fields[_PAYLOAD], fields[_HASH])
    except (KeyError, TypeError) as error:
        raise ChainBroken(f"entry {entry_id!r} is not a log entry") from error


def _seq(entry_id: bytes | str) -> int:
    text = entry_id.decode() if isinstance(entry_id, bytes) else entry_id
    seq, _, rest = text.partition("-")
    if rest != "0":
        raise ChainBroken(f"entry id {text} was not written by an engine")
    return int(seq)
