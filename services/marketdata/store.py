"""History in Postgres: trades, candles, and the log position that they are true at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import asyncpg

from services.marketdata.domain.candles import Candle, CandleSource
from services.marketdata.domain.intervals import Interval
from services.marketdata.domain.trades import PublicTrade

_CANDLE_COLUMNS = (
    "market, source, candle_interval, open_s, end_s, open, high, low, close,"
    " volume, quote_volume, trades, closed, simulated"
)
_TRADE_COLUMNS = (
    "market, trade_id, price_ticks, quantity_lots, notional_units, taker_side, time_ns, log_seq"
)
# A replica that lags behind must not put an older state of a candle over a newer one.
_UPSERT_CANDLES = f"""
insert into candles ({_CANDLE_COLUMNS}, log_seq)
select * from unnest($1::text[], $2::smallint[], $3::smallint[], $4::bigint[], $5::bigint[],
    $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::numeric[], $11::numeric[],
    $12::bigint[], $13::boolean[], $14::boolean[], $15::bigint[])
on conflict (source, market, candle_interval, open_s) do update set
    end_s = excluded.end_s, open = excluded.open, high = excluded.high, low = excluded.low,
    close = excluded.close, volume = excluded.volume, quote_volume = excluded.quote_volume,
    trades = excluded.trades, closed = excluded.closed, simulated = excluded.simulated,
    log_seq = excluded.log_seq
where excluded.log_seq >= candles.log_seq
"""
_INSERT_TRADES = f"""
insert into trades ({_TRADE_COLUMNS})
select * from unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[],
    $6::smallint[], $7::bigint[], $8::bigint[])
on conflict do nothing
"""
_ADVANCE = """
insert into positions (shard, log_seq, log_hash) values ($1, $2, $3)
on conflict (shard) do update set log_seq = excluded.log_seq, log_hash = excluded.log_hash
where excluded.log_seq > positions.log_seq
"""


# The classes are generic to type checkers only.
Connection: TypeAlias = (
    "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
)


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the log."""

    seq: int
    hash: bytes


# One candle as its row; made at once, because an open candle goes on changing.
CandleRow = tuple[Any, ...]


def candle_row(candle: Candle, log_seq: int) -> CandleRow:
    """A candle as it is now."""
    return (
        candle.market,
        candle.source,
        candle.interval,
        candle.open_s,
        candle.end_s,
        candle.open,
        candle.high,
        candle.low,
        candle.close,
        candle.volume,
        candle.quote_volume,
        candle.trades,
        candle.closed,
        candle.simulated,
        log_seq,
    )


class PostgresHistory:
    """Reads and writes history. Raises what asyncpg raises."""

    def __init__(self, pool: asyncpg.Pool, shard: int) -> None:
        self._pool = pool
        self.shard = shard

    async def position(self) -> Position | None:
        """Where trades and CLOB candles end; None before the first write."""
        row = await self._pool.fetchrow(
            "select log_seq, log_hash from positions where shard = $1", self.shard
        )
        return Position(row["log_seq"], row["log_hash"]) if row else None

    async def write(
        self,
        candles: Sequence[CandleRow],
        trades: Sequence[PublicTrade],
        position: Position | None,
    ) -> None:
        """Write all of it, or nothing."""
        if self.shard:
            # Index candles are of pairs, which know no shard: that of shard 0 writes them.
            candles = [row for row in candles if row[1] is not CandleSource.INDEX]
        async with self._pool.acquire() as connection, connection.transaction():
            await write_candles(connection, candles)
            if trades:
                rows = [
                    (
                        trade.market,
                        trade.trade_id,
                        trade.price_ticks,
                        trade.quantity_lots,
                        trade.notional_units,
                        trade.taker_side,
                        trade.time_ns,
                        trade.seq,
                    )
                    for trade in trades
                ]
                await connection.execute(_INSERT_TRADES, *_columns(rows))
            if position is not None:
                await connection.execute(_ADVANCE, self.shard, position.seq, position.hash)

    async def newest_candles(self, source: CandleSource) -> list[Candle]:
        """The newest candle of every market and interval."""
        rows = await self._pool.fetch(
            f"select distinct on (market, candle_interval) {_CANDLE_COLUMNS} from candles"
            " where source = $1 order by market, candle_interval, open_s desc",
            source,
        )
        return [_candle(row) for row in rows]

    async def candles(
        self,
        source: CandleSource,
        market: str,
        interval: Interval,
        *,
        start_s: int,
        end_s: int,
        limit: int,
    ) -> list[Candle]:
        """Candles with `start_s <= open < end_s`, newest first."""
        rows = await self._pool.fetch(
            f"select {_CANDLE_COLUMNS} from candles where source = $1 and market = $2"
            " and candle_interval = $3 and open_s >= $4 and open_s < $5"
            " order by open_s desc limit $6",
            source,
            market,
            interval,
            start_s,
            end_s,
            limit,
        )
        return [_candle(row) for row in rows]

    async def forget_candles(
        self, source: CandleSource, market: str, interval: Interval, *, keep_s: int
    ) -> int:
        """Delete candles that are more than `keep_s` older than the newest one; how many."""
        status: str = await self._pool.execute(
            "delete from candles where source = $1 and market = $2 and candle_interval = $3"
            " and open_s < $4 + (select open_s from candles where source = $1 and market = $2"
            " and candle_interval = $3 order by open_s desc limit 1)",
            source,
            market,
            interval,
            -keep_s,
        )
        return int(status.removeprefix("DELETE "))

    async def trades(self, market: str, *, before_trade_id: int, limit: int) -> list[PublicTrade]:
        """Trades with an id below `before_trade_id`, newest first."""
        rows = await self._pool.fetch(
            f"select {_TRADE_COLUMNS} from trades where market = $1 and trade_id < $2"
            " order by trade_id desc limit $3",
            market,
            before_trade_id,
            limit,
        )
        return [PublicTrade(*row) for row in rows]


async def write_candles(connection: Connection, candles: Sequence[CandleRow]) -> None:
    """Add candles, or put them over older states of themselves."""
    if candles:
        await connection.execute(_UPSERT_CANDLES, *_columns(candles))


def _columns(rows: Iterable[Sequence[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _candle(row: asyncpg.Record) -> Candle:
    values = list(row)
    values[1], values[2] = CandleSource(values[1]), Interval(values[2])
    # numeric comes as Decimal, always whole here.
    values[9], values[10] = int(values[9]), int(values[10])
    return Candle(*values)
