"""Candles of one second are kept for some days; all other candles and all trades for ever."""

from __future__ import annotations

import asyncio

import asyncpg
import structlog

from services.marketdata.catalogue import Catalogue
from services.marketdata.domain.intervals import Interval
from services.marketdata.store import PostgresHistory

_EVERY_SECONDS = 600.0
_DAY_S = 86_400

log = structlog.get_logger()


class Retention:
    """Deletes what is too old, a little at a time. Ages count from the newest candle of a market,
    so that a recording of long ago keeps its own.
    """

    def __init__(self, store: PostgresHistory, catalogue: Catalogue, *, keep_days: int) -> None:
        self._store = store
        self._catalogue = catalogue
        self._keep_s = keep_days * _DAY_S

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            try:
                await self.forget()
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                log.warning("retention_retried", error=str(error) or type(error).__name__)
            await asyncio.sleep(_EVERY_SECONDS)

    async def forget(self) -> int:
        """Delete once; how many candles."""
        count = 0
        for source, name in list(self._catalogue.all_series()):
            count += await self._store.forget_candles(
                source, name, Interval.S1, keep_s=self._keep_s
            )
        if count:
            log.info("candles_forgotten", count=count, interval="1s")
        return count
