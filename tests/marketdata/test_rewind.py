"""History that saw what a log has lost is taken back, as if the lost had never happened."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import asyncpg

from mesh.postgres import open_pool
from ops.migrate import migrate
from services.marketdata.domain.candles import CandleSeries, CandleSource
from services.marketdata.domain.trades import PublicTrade
from services.marketdata.rewind import rewind
from services.marketdata.store import Position, PostgresHistory, candle_row
from tests.builders import make_settings

_HERE, _ELSEWHERE = "BTC_USDC", "SOL_USDC"
_ENTRIES, _KEPT = 90, 60


def _trades(market: str) -> list[PublicTrade]:
    """One an entry, over some days."""
    chance = random.Random(3)
    time_ns, made = 1_700_000_000 * 10**9, []
    for seq in range(1, _ENTRIES + 1):
        time_ns += chance.choice((0, 1, 20, 400, 7_000)) * 10**9
        price, lots = chance.randint(90, 110), chance.randint(1, 9)
        made.append(PublicTrade(market, seq, price, lots, price * lots, 1, time_ns, seq))
    return made


async def _write(store: PostgresHistory, trades: list[PublicTrade]) -> None:
    """As the service does: what changed, every few entries."""
    series = CandleSeries(trades[0].market, CandleSource.CLOB)
    for start in range(0, len(trades), 4):
        part = trades[start : start + 4]
        for trade in part:
            series.add(trade.time_ns, trade.price_ticks, trade.quantity_lots, trade.notional_units)
        seq = part[-1].seq
        rows = [candle_row(candle, seq) for candle in series.take_changed()]
        await store.write(rows, part, Position(seq, bytes(32)))


async def _stored(pool: asyncpg.Pool, market: str) -> tuple[list[Any], list[Any]]:
    """All trades and candles, but for the positions that candles were written at."""
    candles = await pool.fetch(
        "select * from candles where market = $1 order by candle_interval, open_s", market
    )
    trades = await pool.fetch("select * from trades where market = $1 order by trade_id", market)
    return trades, [tuple(row)[:-1] for row in candles]


async def test_trades_and_candles_are_those_that_were_never_lost(
    tmp_path: Path, postgres_url: str
) -> None:
    await migrate(postgres_url, ("marketdata",))
    settings = make_settings(tmp_path, postgres_url=postgres_url)
    trades = _trades(_HERE)
    async with await open_pool(settings, "marketdata") as pool:
        store = PostgresHistory(pool, 0)
        await _write(store, trades[:_KEPT])
        expected = await _stored(pool, _HERE)
        await pool.execute("truncate trades, candles, positions")

        await _write(store, trades)
        await _write(PostgresHistory(pool, 1), _trades(_ELSEWHERE))
        elsewhere = await _stored(pool, _ELSEWHERE)
        to = Position(_KEPT, b"\1" * 32)
        done = await rewind(pool, 0, lambda name: name == _HERE, to)
        assert done is not None
        assert (done.was_at, done.trades) == (_ENTRIES, _ENTRIES - _KEPT) and done.candles
        assert await _stored(pool, _HERE) == expected
        assert await store.position() == to
        # The other shard has lost nothing, and what is taken back once stays where it is.
        assert await _stored(pool, _ELSEWHERE) == elsewhere
        assert await PostgresHistory(pool, 1).position() == Position(_ENTRIES, bytes(32))
        assert await rewind(pool, 0, lambda name: name == _HERE, to) is None
