"""Takes history back to a log position: for a log that came back without its last entries.

What traded after it never happened: those trades go, and the candles that they are in are made
again from the trades that are left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import asyncpg

from services.marketdata.domain.candles import CandleSeries, CandleSource
from services.marketdata.domain.intervals import Interval
from services.marketdata.store import Connection, Position, candle_row, write_candles

_TRADES_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Rewound:
    """Where history was, how many trades went, and how many candles were made again or went."""

    was_at: int
    trades: int
    candles: int


async def rewind(
    pool: asyncpg.Pool, shard: int, has_market: Callable[[str], bool], to: Position
) -> Rewound | None:
    """Take the history of a shard, whose markets `has_market` knows, back to `to`; all or nothing.

    None when it is not past it. No market data service of the shard may run meanwhile.
    """
    async with pool.acquire() as connection, connection.transaction():
        was_at = await connection.fetchval(
            "select log_seq from positions where shard = $1 for update", shard
        )
        if was_at is None or was_at <= to.seq:
            return None
        names = await connection.fetch(
            "select market from trades union select market from candles where source = $1",
            CandleSource.CLOB,
        )
        markets = [row["market"] for row in names if has_market(row["market"])]
        status = await connection.execute(
            "delete from trades where market = any($1) and log_seq > $2", markets, to.seq
        )
        candles = 0
        for market in markets:
            candles += await _rewind_candles(connection, market, to)
        await connection.execute(
            "update positions set log_seq = $2, log_hash = $3 where shard = $1",
            *(shard, to.seq, to.hash),
        )
    return Rewound(was_at, int(status.removeprefix("DELETE ")), candles)


async def _rewind_candles(connection: Connection, market: str, to: Position) -> int:
    rows = await connection.fetch(
        "select candle_interval, min(open_s) as first_s from candles where source = $1"
        " and market = $2 and log_seq > $3 group by candle_interval",
        *(CandleSource.CLOB, market, to.seq),
    )
    if not rows:
        return 0
    firsts = {Interval(row["candle_interval"]): row["first_s"] for row in rows}
    removed = await connection.fetch(
        "delete from candles c using unnest($3::smallint[], $4::bigint[]) as f(i, first_s)"
        " where c.source = $1 and c.market = $2 and c.candle_interval = f.i"
        " and c.open_s >= f.first_s returning 1",
        *(CandleSource.CLOB, market, list(firsts), list(firsts.values())),
    )
    series = CandleSeries(market, CandleSource.CLOB)
    async for time_ns, price, quantity, notional in connection.cursor(
        "select time_ns, price_ticks, quantity_lots, notional_units from trades"
        " where market = $1 and time_ns >= $2 order by trade_id",
        *(market, min(firsts.values()) * 10**9),
        prefetch=_TRADES_AT_ONCE,
    ):
        series.add(time_ns, price, quantity, notional)
    await write_candles(
        connection,
        [
            candle_row(candle, to.seq)
            for candle in series.take_changed()
            if candle.interval in firsts and candle.open_s >= firsts[candle.interval]
        ],
    )
    return len(removed)
