"""Keeps trades and candles: gathers what changed, writes it in batches, and reads it back whole.

What waits to be written is part of every answer, so history has no gap at its newest end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Protocol

import asyncpg
import structlog

from mesh.aio import Backoff
from services.marketdata.domain.candles import Candle, CandleSource
from services.marketdata.domain.intervals import Interval
from services.marketdata.domain.trades import PublicTrade
from services.marketdata.store import CandleRow, Position, candle_row

FLUSH_SECONDS = 0.25
LAST_FLUSH_SECONDS = 3.0
# Trades and candles that may wait before the log is read no further.
BACKLOG_MAX = 50_000

log = structlog.get_logger()

CandleKey = tuple[CandleSource, str, Interval, int]


class HistoryStore(Protocol):
    """Where history is kept (`store.PostgresHistory`)."""

    async def write(
        self,
        candles: Sequence[CandleRow],
        trades: Sequence[PublicTrade],
        position: Position | None,
    ) -> None: ...

    async def candles(
        self,
        source: CandleSource,
        market: str,
        interval: Interval,
        *,
        start_s: int,
        end_s: int,
        limit: int,
    ) -> list[Candle]: ...

    async def trades(
        self, market: str, *, before_trade_id: int, limit: int
    ) -> list[PublicTrade]: ...


class History:
    """Trades and candles for ever."""

    def __init__(self, store: HistoryStore) -> None:
        self._store = store
        self._candles: dict[CandleKey, Candle] = {}
        self._trades: list[PublicTrade] = []
        self._position: Position | None = None
        self._seq = 0
        # What is being written; part of every answer until it is known to be stored.
        self._writing: dict[CandleKey, Candle] = {}
        self._writing_trades: list[PublicTrade] = []
        self._room = asyncio.Event()
        self._room.set()
        self._flushing = asyncio.Lock()

    def add(self, trades: Iterable[PublicTrade], candles: Iterable[Candle]) -> None:
        """These trades are new and these candles changed."""
        self._trades.extend(trades)
        for candle in candles:
            self._candles[candle.source, candle.market, candle.interval, candle.open_s] = candle
        if len(self._trades) + len(self._candles) > BACKLOG_MAX:
            self._room.clear()

    def advance(self, position: Position) -> None:
        """Everything up to this log position has been added."""
        self._position = position
        self._seq = position.seq

    async def room(self) -> None:
        """Wait while more waits to be written than memory should hold."""
        await self._room.wait()

    async def run(self) -> None:
        """Write until cancelled, then once more."""
        try:
            while True:
                await asyncio.sleep(FLUSH_SECONDS)
                await self.flush()
        finally:
            try:
                async with asyncio.timeout(LAST_FLUSH_SECONDS):
                    await self.flush()
            except TimeoutError:
                # What came from the log is read from it again; of the feed's candles this is lost.
                log.error("history_not_written", trades=len(self._trades))

    async def flush(self) -> None:
        """Write what waits, trying again for as long as the store cannot take it."""
        async with self._flushing:
            backoff = Backoff(first_seconds=0.1, most_seconds=5.0)
            while self._candles or self._trades or self._position is not None:
                try:
                    await self._write()
                    break
                except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as e:
                    log.warning("history_write_retried", error=str(e) or type(e).__name__)
                    await backoff.wait()
            self._room.set()

    async def _write(self) -> None:
        # Candles go on changing while the write is under way, so they become rows now: trades,
        # candles and position of one transaction belong to the same moment.
        rows = [
            candle_row(candle, self._seq if candle.source is CandleSource.CLOB else 0)
            for candle in self._candles.values()
        ]
        position, self._position = self._position, None
        self._writing, self._candles = self._candles, {}
        self._writing_trades, self._trades = self._trades, []
        try:
            await self._store.write(rows, self._writing_trades, position)
        except BaseException:
            # Failed or cancelled: all of it goes into the next write, with whatever came since.
            self._candles = self._writing | self._candles
            self._trades = self._writing_trades + self._trades
            self._position = self._position or position
            raise
        finally:
            self._writing, self._writing_trades = {}, []

    async def list_candles(
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
        # Taken before the store is asked: what is written meanwhile is then seen twice, not never.
        waiting = self._writing | self._candles
        stored = await self._store.candles(
            source, market, interval, start_s=start_s, end_s=end_s, limit=limit
        )
        found = {candle.open_s: candle for candle in stored}
        for (of, name, length, open_s), candle in waiting.items():
            if (of, name, length) == (source, market, interval) and start_s <= open_s < end_s:
                found[open_s] = candle
        return [found[open_s] for open_s in sorted(found, reverse=True)[:limit]]

    async def list_trades(
        self, market: str, *, before_trade_id: int, limit: int
    ) -> list[PublicTrade]:
        """Trades with an id below `before_trade_id`, newest first."""
        waiting = [*self._writing_trades, *self._trades]
        stored = await self._store.trades(market, before_trade_id=before_trade_id, limit=limit)
        found = {trade.trade_id: trade for trade in stored}
        for trade in waiting:
            if trade.market == market and trade.trade_id < before_trade_id:
                found[trade.trade_id] = trade
        return [found[trade_id] for trade_id in sorted(found, reverse=True)[:limit]]
