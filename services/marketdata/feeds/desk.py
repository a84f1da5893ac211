"""Runs the chosen source, and made-up prices in its place for as long as it cannot be had."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from kernel.clock import Clock
from kernel.markets import Market
from mesh.aio import cancel_and_wait, supervise
from services.marketdata.domain.prices import (
    ExternalPrice,
    FeedEvent,
    FeedKind,
    FeedTrade,
    PriceBoard,
)
from services.marketdata.feeds.port import Feed
from services.marketdata.feeds.synthetic import SyntheticFeed

log = structlog.get_logger()


class PriceListener(Protocol):
    """Who is told of external prices."""

    def on_prices(self, prices: Sequence[ExternalPrice]) -> None:
        """These markets' prices changed."""
        ...

    def on_feed_trades(self, feed: Feed, trades: Sequence[FeedTrade], until_ns: int) -> None:
        """Trades at the source; nothing of before `until_ns` (source time) will follow."""
        ...


@dataclass(frozen=True, slots=True)
class FeedSnapshot:
    """How the external feed is, for people."""

    kind: FeedKind
    simulated: bool
    healthy: bool
    detail: str
    bad_frames: int
    reconnects: int


class FeedDesk:
    """The feed that was asked for, with its fallback, and the prices that come of it.

    While the asked-for feed gives nothing for `fallback_after_seconds`, synthetic prices (marked
    simulated) take over; its first event takes back.
    """

    def __init__(
        self,
        feed: Feed,
        board: PriceBoard,
        listener: PriceListener,
        clock: Clock,
        *,
        fallback_markets: Sequence[Market] = (),
        fallback_after_seconds: float = 3.0,
        stale_ms: int = 5000,
    ) -> None:
        """No `fallback_markets`: no fallback."""
        self.board = board
        self._feed = feed
        self._listener = listener
        self._clock = clock
        self._fallback_markets = fallback_markets
        self._fallback_after_seconds = fallback_after_seconds
        self._stale_ns = stale_ms * 1_000_000
        self._fallback: SyntheticFeed | None = None
        self._fallback_task: asyncio.Task[Any] | None = None
        self._heard = asyncio.Event()
        # Newest source time of the feed in use.
        self._newest_ns = 0

    def status(self) -> FeedSnapshot:
        """How the feed is now."""
        used: Feed = self._fallback or self._feed
        detail = self._feed.health.detail
        if self._fallback is not None:
            detail = f"SIMULATED prices: {self._fallback.health.detail}, because {detail}"
        stale = all(price.stale for price in self.board)
        return FeedSnapshot(
            kind=used.kind,
            simulated=used.simulated,
            healthy=used.health.connected and not stale,
            detail=detail,
            bad_frames=self._feed.health.bad_frames,
            reconnects=self._feed.health.reconnects,
        )

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._feed.run(self))
                tasks.create_task(self._watch_staleness())
                if self._fallback_markets:
                    tasks.create_task(self._watch_silence())
        finally:
            await cancel_and_wait(self._fallback_task)

    def on_events(self, feed: Feed, events: Sequence[FeedEvent]) -> None:
        """Events of a source; they end the fallback when they are of the asked-for one."""
        if feed is self._feed:
            self._heard.set()
            if self._fallback is not None:
                self._end_fallback()
        elif feed is not self._fallback:
            return
        changed = self.board.apply(events, feed.kind, feed.simulated, self._clock.now_ns())
        self._newest_ns = max(self._newest_ns, events[-1].time_ns)
        trades = [event for event in events if isinstance(event, FeedTrade)]
        self._listener.on_feed_trades(feed, trades, self._newest_ns - feed.late_ns)
        self._listener.on_prices(changed)

    async def _watch_silence(self) -> None:
        while True:
            try:
                await asyncio.wait_for(self._heard.wait(), self._fallback_after_seconds)
                self._heard.clear()
                # The next silence is measured from now on.
                await asyncio.sleep(self._fallback_after_seconds)
            except TimeoutError:
                if self._fallback is None:
                    self._begin_fallback()

    def _begin_fallback(self) -> None:
        known = {price.market: price.price for price in self.board if price.price}
        self._fallback = SyntheticFeed(self._fallback_markets, self._clock, start_prices=known)
        self._fallback_task = supervise(self._fallback.run(self), "fallback feed")
        log.warning("feed_falls_back", to="synthetic", simulated=True, why=self._feed.health.detail)

    def _end_fallback(self) -> None:
        if self._fallback_task is not None:
            self._fallback_task.cancel()
        self._fallback = self._fallback_task = None
        log.info("feed_is_back", feed=self._feed.kind.name.lower())

    async def _watch_staleness(self) -> None:
        while True:
            await asyncio.sleep(min(0.5, self._stale_ns / 1e9))
            marked = self.board.mark_stale(self._clock.now_ns(), self._stale_ns)
            if marked:
                log.warning("prices_stale", markets=[price.market for price in marked])
                self._listener.on_prices(marked)
