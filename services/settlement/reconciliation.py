"""The books on one page: what clients have and the exchange took is what came in and stayed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import asyncpg
import structlog
from google.protobuf.message import DecodeError
from redis.exceptions import RedisError
from tidebook.engine.v1 import log_pb2

from kernel.clock import Clock
from mesh.log import LogError, LogReader
from services.settlement.domain.ledger import LedgerKind, PoisonEntry
from services.settlement.store.archive import archive_end, read_archive
from services.settlement.store.database import Connection, text_of
from services.settlement.store.reading import totals
from services.settlement.store.sessions import for_a_call

# The question is open to everyone, and answering it reads every balance.
_KEEP_SECONDS = 1.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class AssetBooks:
    """Totals of one asset in units. `difference` is what does not add up: always 0."""

    asset_id: int
    clients_free: int
    clients_held: int
    fees: int
    insurance: int
    house: int
    clearing: int
    deposits: int
    withdrawals: int

    @property
    def difference(self) -> int:
        clients = self.clients_free + self.clients_held
        inside = clients + self.fees + self.insurance + self.house + self.clearing
        return inside - (self.deposits - self.withdrawals)


@dataclass(frozen=True, slots=True)
class ShardPosition:
    """How far the books and the archive of a shard are, and its log. `behind_ns` is the age of the
    oldest entry that the books have not got, 0 when they have all.
    """

    log_seq: int
    archived_seq: int
    newest_seq: int
    behind_ns: int


@dataclass(frozen=True, slots=True)
class Books:
    """All assets over all shards, each at one position of its log (`positions`, by shard), and when
    (Unix ns) that was worked out.
    """

    positions: dict[int, ShardPosition]
    time_ns: int
    assets: tuple[AssetBooks, ...]

    @property
    def balanced(self) -> bool:
        return not any(asset.difference for asset in self.assets)


def books_of(asset_id: int, sums: Mapping[LedgerKind, int]) -> AssetBooks:
    """The books of an asset from the sum of balances of each kind."""
    return AssetBooks(
        asset_id=asset_id,
        clients_free=sums.get(LedgerKind.CLIENT_FREE, 0),
        clients_held=sums.get(LedgerKind.CLIENT_HELD, 0),
        fees=sums.get(LedgerKind.FEES, 0),
        insurance=sums.get(LedgerKind.INSURANCE, 0),
        house=sums.get(LedgerKind.HOUSE, 0),
        clearing=sums.get(LedgerKind.CLEARING, 0),
        deposits=-sums.get(LedgerKind.DEPOSITS, 0),
        withdrawals=sums.get(LedgerKind.WITHDRAWALS, 0),
    )


class Reconciliation:
    """Adds the books up, at most once a second. `readers` has the log of each shard."""

    def __init__(self, pool: asyncpg.Pool, readers: Mapping[int, LogReader], clock: Clock) -> None:
        self._pool = pool
        self._readers = readers
        self._clock = clock
        self._adding = asyncio.Lock()
        self._books: Books | None = None
        self._expires = 0.0

    async def books(self) -> Books:
        """The books, at most a second old."""
        async with self._adding:
            if self._books is None or time.monotonic() >= self._expires:
                self._books = await self._add_up()
                self._expires = time.monotonic() + _KEEP_SECONDS
            return self._books

    async def _add_up(self) -> Books:
        ends = {shard: await _log_end(reader) for shard, reader in self._readers.items()}
        positions: dict[int, ShardPosition] = {}
        sums: dict[int, Counter[LedgerKind]] = {}
        now_ns = self._clock.now_ns()
        async with for_a_call(self._pool) as connection:
            # What is under way between two shards is in the books of neither, and each shard's
            # books add up by themselves: their sum does whatever the moment.
            for shard in self._readers:
                log_seq, found = await totals(connection, shard)
                for asset_id, kinds in found.items():
                    sums.setdefault(asset_id, Counter()).update(kinds)
                archived_seq = (await archive_end(connection, shard)).seq
                next_ns = await self._time_of(connection, shard, log_seq + 1)
                positions[shard] = ShardPosition(
                    log_seq,
                    archived_seq,
                    max(log_seq, archived_seq, ends[shard]),
                    max(0, now_ns - next_ns) if next_ns else 0,
                )
        assets = tuple(books_of(asset_id, sums[asset_id]) for asset_id in sorted(sums))
        return Books(positions, now_ns, assets)

    async def _time_of(self, connection: Connection, shard: int, seq: int) -> int:
        """When an entry was written, Unix ns; 0 when there is none, or none that can be read."""
        try:
            records = await read_archive(connection, shard, seq - 1, 1)
            record = records[0] if records else await self._readers[shard].get(seq)
            return log_pb2.LogEntry.FromString(record.payload).time_ns if record else 0
        except (PoisonEntry, DecodeError, LogError, RedisError, OSError) as error:
            # What a ledger has stopped before may be anything.
            log.warning("entry_time_unknown", log_seq=seq, error=text_of(error))
            return 0


async def _log_end(reader: LogReader) -> int:
    try:
        return await reader.last_seq()
    except (LogError, RedisError, OSError) as error:
        # The books are what was asked for; how far behind they are is an extra.
        log.warning("log_end_unknown", error=text_of(error))
        return 0
