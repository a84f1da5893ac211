"""Recorded trades as a feed: gzipped CSV files with the columns `ts_us,symbol,price,qty,side`."""

from __future__ import annotations

import asyncio
import csv
import gzip
import heapq
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import structlog

from services.marketdata.domain.prices import FeedKind, FeedTrade
from services.marketdata.feeds.port import BadFrame, FeedHealth, FeedSink, positive

COLUMNS = ("ts_us", "symbol", "price", "qty", "side")
# Longest first: "BTCUSDT" ends in USDT, not in USD.
_QUOTES = ("USDT", "USDC", "USD")
_BATCH = 200

log = structlog.get_logger()


class ReplayFeed:
    """Plays the trades of one or more files, merged by time.

    `speed` 1 is real time, 60 an hour a minute, 0 as fast as they can be taken. The recorded times
    stay the source times. At the end it stops and says so; the last prices stay.
    """

    kind = FeedKind.REPLAY
    name = "replay"
    simulated = True
    late_ns = 0

    def __init__(self, paths: Sequence[Path], pairs: Sequence[str], speed: float = 1.0) -> None:
        """Raises `ValueError` for a file that is not there or has other columns."""
        self._paths = tuple(paths)
        self._pairs = {pair.partition("_")[0]: pair for pair in pairs}
        self._speed = speed
        for path in paths:
            _check_header(path)
        self.health = FeedHealth(detail=f"recorded trades of {self._names()}")

    def _names(self) -> str:
        return ", ".join(path.name for path in self._paths)

    async def run(self, sink: FeedSink) -> None:
        self.health.connected = True
        trades = heapq.merge(*map(self._read, self._paths), key=lambda trade: trade.time_ns)
        count = 0
        batch: list[FeedTrade] = []
        started, first_ns = time.monotonic(), 0
        for trade in trades:
            first_ns = first_ns or trade.time_ns
            wait = 0.0
            if self._speed > 0:
                due = started + (trade.time_ns - first_ns) / 1e9 / self._speed
                wait = due - time.monotonic()
            if batch and (wait > 0 or len(batch) >= _BATCH):
                sink.on_events(self, batch)
                count += len(batch)
                batch = []
                await asyncio.sleep(max(wait, 0))
            batch.append(trade)
        if batch:
            sink.on_events(self, batch)
            count += len(batch)
        self.health.connected = False
        self.health.detail = f"the recording of {self._names()} has ended after {count} trades"
        log.info("feed_replay_ended", files=self._names(), trades=count)

    def _read(self, path: Path) -> Iterator[FeedTrade]:
        """One file's trades of our pairs; rows that break the format are counted."""
        with gzip.open(path, "rt", encoding="utf-8", newline="") as rows:
            for row in csv.DictReader(rows):
                pair = self._pairs.get(base_of(row["symbol"] or ""))
                if pair is None:
                    continue
                try:
                    yield _trade(row, pair)
                except BadFrame as error:
                    self.health.bad_frames += 1
                    log.warning("feed_row_dropped", file=path.name, error=str(error))


def base_of(symbol: str) -> str:
    """`"BTCUSDT"`, `"BTC-USD"` or `"BTC_USDC"` -> `"BTC"`."""
    for quote in _QUOTES:
        if symbol.endswith(quote):
            return symbol[: -len(quote)].rstrip("-_/")
    return symbol


def _trade(row: dict[str, str], pair: str) -> FeedTrade:
    time_text = row["ts_us"] or ""
    if not (time_text.isascii() and time_text.isdigit()):
        raise BadFrame("ts_us is not a whole number")
    price, quantity = positive(row["price"], "price"), positive(row["qty"], "qty")
    return FeedTrade(pair, price, quantity, int(time_text) * 1000)


def _check_header(path: Path) -> None:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as rows:
            header = tuple(rows.readline().strip().split(","))
    except OSError as error:
        raise ValueError(f"cannot read the recording {path}: {error}") from None
    if header != COLUMNS:
        raise ValueError(f"{path} has the columns {header}, not {COLUMNS}")
