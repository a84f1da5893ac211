"""`tidebook rebuild`: the engine's log and state again, from the archive in PostgreSQL.

For when the log store is gone, or came back with less than it had. Every archived entry is checked
against the hash chain and goes through the engine's core, which must give the recorded events; then
the newest entries are written into the log and the state becomes a snapshot, and the exchange
starts from there as if nothing had been. Market data that has seen more than the archive, because
the last entries were lost before they were archived, is taken back to its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from redis.asyncio import Redis
from rich.console import Console

from mesh.config import Settings
from mesh.log import GENESIS_HASH, ChainBroken, LogReader, LogRecord, put_back, verify_chain
from mesh.postgres import open_pool
from mesh.redis import open_redis
from ops.errors import OpsError
from services.engine import snapshots
from services.engine.codec import MarketTexts
from services.engine.domain.exchange import Exchange
from services.engine.encode import Encoder
from services.engine.projection import Projection
from services.engine.recovery import Replayer, ReplayMismatch
from services.engine.snapshots import SnapshotStore
from services.engine.watch import AccountFeeds
from services.marketdata.rewind import Rewound, rewind
from services.marketdata.store import Position
from services.settlement.domain.ledger import PoisonEntry
from services.settlement.store.applying import read_progress
from services.settlement.store.archive import ArchiveEnd, archive_end, read_archive
from services.settlement.store.transfers import send_again

# What of the log is written again: more than any reader that runs is behind. Whoever is further
# behind reads the archive.
KEEP_ENTRIES = 10_000
_CHUNK = 64


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """Where the log ends now, the state there, and what was done."""

    seq: int
    log_hash: bytes
    state_hash: bytes
    commands: int
    written: int
    snapshot: Path | None
    set_aside: tuple[int, ...]
    rewound: Rewound | None = None
    sent_again: int = 0


async def rebuild(settings: Settings, *, check_only: bool = False) -> int:
    """Rebuild every shard and print what came of it; returns 0. Raises `OpsError` when it cannot be
    done.
    """
    console = Console(highlight=False)
    shards = settings.shard_map.numbers
    for shard in shards:
        if len(shards) > 1:
            console.print(f"shard {shard}")
        of_shard = settings.model_copy(update={"shard": shard})
        _print(console, await make_again(of_shard, check_only=check_only), check_only)
    return 0


def _print(console: Console, done: Rebuilt, check_only: bool) -> None:
    for seq in done.set_aside:
        console.print(f"the snapshot of {seq} is of a log that is lost: set aside")
    if (rewound := done.rewound) is not None:
        console.print(
            f"market data was at entry {rewound.was_at}: {rewound.trades} trades that were lost are"
            f" gone, {rewound.candles} candles made again"
        )
    if done.sent_again:
        console.print(f"{done.sent_again} transfers were on their way: they are sent again")
    if check_only:
        console.print("nothing was written (--check)")
    else:
        console.print(f"{done.written} entries written to the log, snapshot {done.snapshot}")
    console.print(f"log entry {done.seq}, {done.commands} commands")
    console.print(f"log hash   {done.log_hash.hex()}")
    console.print(f"state hash {done.state_hash.hex()}", soft_wrap=True)


async def make_again(settings: Settings, *, check_only: bool = False) -> Rebuilt:
    """See `rebuild`."""
    redis = open_redis(settings)
    pool = await open_pool(settings, "settlement")
    try:
        return await _make_again(settings, pool, redis, check_only)
    except (ChainBroken, PoisonEntry) as error:
        raise OpsError(f"the archive is damaged: {error}") from error
    except ReplayMismatch as error:
        raise OpsError(f"the archive cannot be replayed: {error}") from error
    finally:
        await pool.close()
        await redis.aclose()


async def _make_again(
    settings: Settings, pool: asyncpg.Pool, redis: Redis, check_only: bool
) -> Rebuilt:
    async with pool.acquire() as connection:
        end = await archive_end(connection, settings.shard)
        applied_seq = (await read_progress(connection, settings.shard)).seq
    if not end.seq:
        raise OpsError(f"there is nothing in the archive of shard {settings.shard}")
    if applied_seq > end.seq:
        raise OpsError(f"the ledger is at entry {applied_seq}, but the archive ends at {end.seq}")
    next_seq = await _log_goes_on(pool, LogReader(redis, settings.shard), settings.shard, end)
    projection = Projection()
    feeds = AccountFeeds(projection, Encoder(projection, MarketTexts()), remembered_items=0)
    replayer = Replayer(Exchange(), projection, feeds)
    written = 0
    async for records in _archived(pool, settings.shard):
        # In a thread: the stores' supervision goes on meanwhile.
        await asyncio.to_thread(_apply, replayer, records)
        lost = [record for record in records if record.seq >= next_seq]
        if lost and not check_only:
            await put_back(redis, settings.shard, lost)
            written += len(lost)
    if projection.seq != end.seq or projection.log_hash != end.hash:
        raise OpsError(f"the archive ends at {end.seq}, but only {projection.seq} can be read")
    exchange = replayer.exchange
    path: Path | None = None
    aside: tuple[int, ...] = ()
    rewound: Rewound | None = None
    sent_again = 0
    if not check_only:
        rewound = await _rewind_market_data(settings, end)
        async with pool.acquire() as connection:
            sent_again = await send_again(connection, settings.shard)
        store = SnapshotStore.of(settings)
        aside = tuple(store.set_aside_after(end.seq))
        path = store.write(snapshots.take(exchange, projection, feeds))
    return Rebuilt(
        seq=end.seq,
        log_hash=end.hash,
        state_hash=exchange.state_hash(),
        commands=exchange.last_command_seq,
        written=written,
        snapshot=path,
        set_aside=aside,
        rewound=rewound,
        sent_again=sent_again,
    )


async def _rewind_market_data(settings: Settings, end: ArchiveEnd) -> Rewound | None:
    """A position beyond the log would be waited for, and then be another entry."""
    pool = await open_pool(settings, "marketdata")
    try:
        of_market = settings.shard_map.of_market
        shard = settings.shard
        to = Position(end.seq, end.hash)
        return await rewind(pool, shard, lambda name: of_market(name) == shard, to)
    finally:
        await pool.close()


async def _log_goes_on(pool: asyncpg.Pool, reader: LogReader, shard: int, end: ArchiveEnd) -> int:
    """The first entry to put back into the log. Raises `OpsError` for a log of another archive."""
    last_seq = await reader.last_seq()
    if not last_seq:
        return max(1, end.seq - KEEP_ENTRIES + 1)
    if last_seq > end.seq:
        raise OpsError(
            f"the log is at entry {last_seq} and the archive only at {end.seq}: the log is not"
            " lost, start the exchange and it goes on"
        )
    newest = await reader.get(last_seq)
    async with pool.acquire() as connection:
        (archived,) = await read_archive(connection, shard, last_seq - 1, 1)
    if newest is not None and newest.hash != archived.hash:
        raise OpsError(f"entry {last_seq} of the log is not the archived one: this is another log")
    return last_seq + 1


async def _archived(pool: asyncpg.Pool, shard: int) -> AsyncIterator[list[LogRecord]]:
    """All of the archive, its chain checked."""
    seq, last_hash = 0, GENESIS_HASH
    while True:
        async with pool.acquire() as connection:
            records = await read_archive(connection, shard, seq, _CHUNK)
        if not records:
            return
        last_hash = verify_chain(records, after_seq=seq, after_hash=last_hash)
        seq = records[-1].seq
        yield records


def _apply(replayer: Replayer, records: list[LogRecord]) -> None:
    for record in records:
        replayer.apply(record)
