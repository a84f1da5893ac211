"""Runs the chosen sources, and made-up prices in their place for as long as none can be had."""

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
    FeedEvent,
    FeedKind,
    FeedTrade,
    IndexPrice,
    PriceBoard,
    Source,
)
from services.marketdata.feeds.port import Feed
from services.marketdata.feeds.synthetic import SyntheticFeed

log = structlog.get_logger()


class PriceListener(Protocol):
    """Who is told of external prices."""

    def on_prices(self, prices: Sequence[IndexPrice]) -> None:
        """The index of these pairs changed."""
        ...

    def on_feed_trades(self, feed: Feed, trades: Sequence[FeedTrade], until_ns: int) -> None:
        """Trades at the leading source; nothing of before `until_ns` (source time) will follow."""
        ...


@dataclass(frozen=True, slots=True)
class FeedSnapshot:
    """How the external feed, or one source of it, is; for people."""

    name: str
    kind: FeedKind
    simulated: bool
    healthy: bool
    detail: str
    bad_frames: int
    reconnects: int


class FeedDesk:
    """The feeds that were asked for, with their fallback, and the prices that come of them.

    While none of the asked-for feeds gives anything for `fallback_after_seconds`, synthetic prices
    (marked simulated) take over; the first event of one of them takes back.
    """

    def __init__(
        self,
        feeds: Sequence[Feed],
        board: PriceBoard,
        listener: PriceListener,
        clock: Clock,
        *,
        fallback_markets: Sequence[Market] = (),
        fallback_after_seconds: float = 3.0,
        stale_ms: int = 5000,
    ) -> None:
        """`feeds`: at least one, the most believed first. No `fallback_markets`: no fallback."""
        self.board = board
        self._feeds = {
            feed: Source(feed.name, feed.kind, feed.simulated, rank)
            for rank, feed in enumerate(feeds)
        }
        self._listener = listener
        self._clock = clock
        self._fallback_markets = fallback_markets
        self._fallback_after_seconds = fallback_after_seconds
        self._stale_ns = stale_ms * 1_000_000
        self._fallback: SyntheticFeed | None = None
        self._fallback_task: asyncio.Task[Any] | None = None
        self._heard = asyncio.Event()
        # Newest source time of what came.
        self._newest_ns = 0

    def statuses(self) -> list[FeedSnapshot]:
        """How each of the asked-for feeds is now."""
        return [
            FeedSnapshot(
                name=feed.name,
                kind=feed.kind,
                simulated=feed.simulated,
                healthy=feed.health.connected and self._is_fresh(source),
                detail=feed.health.detail,
                bad_frames=feed.health.bad_frames,
                reconnects=feed.health.reconnects,
            )
            for feed, source in self._feeds.items()
        ]

    def status(self) -> FeedSnapshot:
        """How the feed is now, all sources together: that of the best one."""
        statuses = self.statuses()
        best = next((one for one in statuses if one.healthy), statuses[0])
        kind, simulated, healthy, detail = best.kind, best.simulated, best.healthy, best.detail
        if self._fallback is not None:
            kind, simulated = self._fallback.kind, self._fallback.simulated
            healthy = self._fallback.health.connected and not all(p.stale for p in self.board)
            why = "; ".join(one.detail for one in statuses)
            detail = f"SIMULATED prices: {self._fallback.health.detail}, because {why}"
        return FeedSnapshot(
            name=best.name,
            kind=kind,
            simulated=simulated,
            healthy=healthy,
            detail=detail,
            bad_frames=sum(one.bad_frames for one in statuses),
            reconnects=sum(one.reconnects for one in statuses),
        )

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for feed in self._feeds:
                    tasks.create_task(feed.run(self))
                tasks.create_task(self._watch_staleness())
                if self._fallback_markets:
                    tasks.create_task(self._watch_silence())
        finally:
            await cancel_and_wait(self._fallback_task)

    def on_events(self, feed: Feed, events: Sequence[FeedEvent]) -> None:
        """Events of a source; they end the fallback when they are of an asked-for one."""
        source = self._feeds.get(feed)
        if source is not None:
            self._heard.set()
            if self._fallback is not None:
                self._end_fallback()
        elif feed is self._fallback:
            source = Source("fallback", feed.kind, feed.simulated, len(self._feeds))
        else:
            return
        changed = self.board.apply(events, source, self._clock.now_ns())
        # Candles count the trades of one source: several would count the same market twice.
        trades = [
            event
            for event in events
            if isinstance(event, FeedTrade) and self.board.leads(source, event.pair)
        ]
        self._newest_ns = max(self._newest_ns, events[-1].time_ns)
        self._listener.on_feed_trades(feed, trades, self._newest_ns - feed.late_ns)
        self._listener.on_prices(changed)

    def _is_fresh(self, source: Source) -> bool:
        return any(
            one.source == source and not one.stale for price in self.board for one in price.inputs
        )

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
        known = {price.pair: price.price for price in self.board if price.price}
        self._fallback = SyntheticFeed(self._fallback_markets, self._clock, start_prices=known)
        self._fallback_task = supervise(self._fallback.run(self), "fallback feed")
        why = [feed.health.detail for feed in self._feeds]
        log.warning("feed_falls_back", to="synthetic", simulated=True, why=why)

    def _end_fallback(self) -> None:
        if self._fallback_task is not None:
            self._fallback_task.cancel()
        self._fallback = self._fallback_task = None
        log.info("feed_is_back")

    async def _watch_staleness(self) -> None:
        while True:
            await asyncio.sleep(min(0.5, self._stale_ns / 1e9))
            changed = self.board.mark_stale(self._clock.now_ns(), self._stale_ns)
            if stale := [price.pair for price in changed if price.stale]:
                log.warning("prices_stale", pairs=stale)
            if changed:
                self._listener.on_prices(changed)
