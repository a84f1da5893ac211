"""The external feed: Backpack with all its faults, recordings, made-up prices, and the fallback."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from kernel.clock import ManualClock, SystemClock
from kernel.markets import default_markets
from mesh.aio import Backoff, cancel_and_wait
from services.marketdata.domain.prices import (
    FeedEvent,
    FeedKind,
    FeedTrade,
    IndexPrice,
    PriceBoard,
    Quote,
    Source,
)
from services.marketdata.feeds.backpack import BackpackFeed
from services.marketdata.feeds.choose import make_feed
from services.marketdata.feeds.desk import FeedDesk
from services.marketdata.feeds.port import Feed
from services.marketdata.feeds.replay import ReplayFeed, base_of
from services.marketdata.feeds.synthetic import SyntheticFeed, Walk
from tests.marketdata.backpack import TIME_US, FakeBackpack, fake_backpack
from tests.support.waiting import eventually

MARKETS = tuple(market for market in default_markets() if market.kind == "SPOT")
NAMES = [market.name for market in MARKETS]
UNIT = 10**8
RECORDING = Source("replay", FeedKind.REPLAY, simulated=True)


class Sink:
    """Keeps what a feed gives."""

    def __init__(self) -> None:
        self.events: list[FeedEvent] = []

    def on_events(self, feed: Feed, events: Sequence[FeedEvent]) -> None:
        self.events.extend(events)


class Listener:
    """Keeps what a desk says."""

    def __init__(self) -> None:
        self.prices: list[IndexPrice] = []

    def on_prices(self, prices: Sequence[IndexPrice]) -> None:
        self.prices.extend(prices)

    def on_feed_trades(self, feed: Feed, trades: Sequence[FeedTrade], until_ns: int) -> None:
        """Not of interest here."""


@contextlib.asynccontextmanager
async def running(work: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        await cancel_and_wait(task)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[FakeBackpack]:
    async with fake_backpack() as fake:
        yield fake


def backpack(server: FakeBackpack, **options: Any) -> BackpackFeed:
    backoff = Backoff(first_seconds=0.01, most_seconds=0.05)
    return BackpackFeed(
        NAMES, ws_url=server.ws_url, rest_url=server.rest_url, backoff=backoff, **options
    )


@contextlib.asynccontextmanager
async def subscribed(
    server: FakeBackpack, **options: Any
) -> AsyncIterator[tuple[BackpackFeed, Sink]]:
    feed, sink = backpack(server, **options), Sink()
    async with running(feed.run(sink)):
        await eventually(lambda: len(server.subscriptions) == 1)
        yield feed, sink


async def test_backpack_is_asked_for_the_symbols_that_it_has(server: FakeBackpack) -> None:
    async with subscribed(server):
        assert server.subscriptions == [
            [
                f"{stream}.{symbol}"
                for symbol in ("BTC_USDC", "ETH_USDC", "SOL_USDC", "DOGE_USDC")
                for stream in ("bookTicker", "trade")
            ]
        ]


async def test_backpack_quotes_and_trades_arrive_exact(server: FakeBackpack) -> None:
    async with subscribed(server) as (feed, sink):
        await server.send(server.quote("SOL_USDC", "18.67", "18.70"))
        await server.send(server.trade("SOL_USDC", "218.50", "0.07"))
        await eventually(lambda: len(sink.events) == 2)
        assert sink.events == [
            Quote("SOL_USDC", 1_867_000_000, 1_870_000_000, (TIME_US + 1) * 1000),
            FeedTrade("SOL_USDC", 21_850_000_000, 7_000_000, (TIME_US + 2) * 1000),
        ]
        assert feed.health.connected and feed.health.bad_frames == 0


async def test_the_recorded_frames_are_understood(server: FakeBackpack) -> None:
    frames = [
        {
            "data": {"A": "19.60", "B": "56.02", "E": 1736172777506225, "T": 1736172777497712}
            | {"a": "218.61", "b": "218.58", "e": "bookTicker", "s": "SOL_USDC", "u": 1802083092},
            "stream": "bookTicker.SOL_USDC",
        },
        {
            "data": {"E": 1736186248745457, "T": 1736186248744398, "a": "113782701997686784"}
            | {"b": "113782700596854784", "e": "trade", "m": True, "p": "218.50", "q": "0.07"}
            | {"s": "SOL_USDC", "t": 341399899},
            "stream": "trade.SOL_USDC",
        },
    ]
    async with subscribed(server) as (feed, sink):
        for frame in frames:
            await server.send(frame)
        await eventually(lambda: len(sink.events) == 2)
        assert feed.health.bad_frames == 0


async def test_bad_frames_are_counted_and_never_published(server: FakeBackpack) -> None:
    quote = server.quote
    bad: list[Any] = [
        "not json",
        "[1]",
        "[" * 5000,
        b"\x00\x01",
        {"stream": "bookTicker.SOL_USDC"},
        {"stream": "depth.SOL_USDC", "data": {"e": "depth", "s": "SOL_USDC", "T": TIME_US}},
        quote("XRP_USDC", "1", "2"),
        quote("SOL_USDC", "18.70", "18.67"),
        quote("SOL_USDC", "0", "18.67"),
        quote("SOL_USDC", "-1", "18.67"),
        quote("SOL_USDC", "1e3", "1e4"),
        quote("SOL_USDC", "NaN", "18.67"),
        quote("SOL_USDC", "18.6", None),  # type: ignore[arg-type]
        quote("SOL_USDC", "18.6", "18.7", T=1736172777497),
        quote("SOL_USDC", "18.6", "18.7", T=None),
        quote("SOL_USDC", "18.6", "18.7", u="x"),
        quote("SOL_USDC", "18.6", "18.7", s=["SOL_USDC"]),
        server.trade("SOL_USDC", "18.6", "0"),
        server.quote("SOL_USDC", "18.6", "18.7") | {"stream": "bookTicker.BTC_USDC"},
    ]
    async with subscribed(server) as (feed, sink):
        for frame in bad:
            await server.send(frame)
        await server.send(server.quote("SOL_USDC", "18.67", "18.70"))
        await eventually(lambda: len(sink.events) == 1)
        assert feed.health.bad_frames == len(bad)
        assert feed.health.reconnects == 0


async def test_an_error_object_is_shown_and_survived(server: FakeBackpack) -> None:
    async with subscribed(server) as (feed, sink):
        await server.send({"id": None, "error": {"code": 4006, "message": "Invalid stream"}})
        await eventually(lambda: "Invalid stream" in feed.health.detail)
        await server.send(server.quote("SOL_USDC", "18.67", "18.70"))
        await eventually(lambda: len(sink.events) == 1)
        assert feed.health.bad_frames == 0


async def test_pings_are_answered(server: FakeBackpack) -> None:
    async with subscribed(server):
        await server.ping()
        await eventually(lambda: server.pongs == 1)


@pytest.mark.parametrize("how", ["close", "cut", "silence", "too large"])
async def test_a_lost_connection_is_made_again_with_its_subscriptions(
    server: FakeBackpack, how: str
) -> None:
    async with subscribed(server, silence_seconds=0.3 if how == "silence" else 30) as (feed, sink):
        await server.send(server.quote("SOL_USDC", "18.67", "18.70"))
        await eventually(lambda: feed.health.connected)
        if how == "close":
            await server.close()
        elif how == "cut":
            server.cut()
        elif how == "too large":
            await server.send("x" * (2 << 20))
        await eventually(lambda: len(server.subscriptions) >= 2)
        assert server.subscriptions[-1] == server.subscriptions[0]
        assert feed.health.reconnects >= 1
        await server.send(server.quote("SOL_USDC", "18.68", "18.70"))
        await eventually(lambda: len(sink.events) == 2)
        assert feed.health.connected


async def test_what_comes_again_after_a_reconnect_is_not_counted_twice(
    server: FakeBackpack,
) -> None:
    first = server.trade("SOL_USDC", "18.6", "1")
    async with subscribed(server) as (_, sink):
        await server.send(first)
        await eventually(lambda: len(sink.events) == 1)
        await server.close()
        await eventually(lambda: len(server.subscriptions) == 2)
        await server.send(first)
        await server.send(server.trade("SOL_USDC", "18.7", "1"))
        await eventually(lambda: len(sink.events) == 2)
        assert [event.price for event in sink.events if isinstance(event, FeedTrade)] == [
            1_860_000_000,
            1_870_000_000,
        ]


@pytest.mark.parametrize(
    "symbols", [[], [{"symbol": "XRP_USDC"}], {"error": "no"}, [{"name": "BTC_USDC"}]]
)
async def test_without_any_of_our_markets_it_goes_on_asking(
    server: FakeBackpack, symbols: Any
) -> None:
    good, server.symbols = server.symbols, symbols
    feed = backpack(server)
    async with running(feed.run(Sink())):
        await eventually(lambda: feed.health.reconnects >= 2)
        assert not server.subscriptions
        server.symbols = good
        await eventually(lambda: server.subscriptions)


async def test_a_handshake_is_not_led_elsewhere(server: FakeBackpack) -> None:
    server.elsewhere = f"{server.rest_url}/trap"
    feed = backpack(server)
    async with running(feed.run(Sink())):
        await eventually(lambda: feed.health.reconnects >= 2)
        assert "sends elsewhere" in feed.health.detail
        server.elsewhere = ""
        await eventually(lambda: server.subscriptions)
    assert server.led_astray == 0


async def test_a_rate_limit_is_kept_for_as_long_as_it_says(server: FakeBackpack) -> None:
    server.refuse_with, server.retry_after = 429, "2"
    feed = backpack(server)
    async with running(feed.run(Sink())):
        await eventually(lambda: server.asked == 1)
        refused_at = time.monotonic()
        server.refuse_with = None
        await eventually(lambda: server.subscriptions)
        # Without the header it would have been back within a few hundredths of a second.
        assert time.monotonic() - refused_at > 1.5
        assert server.asked == 2


async def test_without_backpack_prices_are_simulated_said_to_be_and_then_real_again(
    server: FakeBackpack,
) -> None:
    server.refuse_with = 503
    feed, listener, board = backpack(server), Listener(), PriceBoard()
    desk = FeedDesk(
        [feed],
        board,
        listener,
        SystemClock(),
        fallback_markets=MARKETS,
        fallback_after_seconds=0.2,
    )
    async with running(desk.run()):
        await eventually(lambda: {price.pair for price in board} == set(NAMES))
        assert all(p.simulated and p.kind is FeedKind.SYNTHETIC for p in listener.prices)
        status = desk.status()
        assert status.simulated and status.kind is FeedKind.SYNTHETIC
        assert "SIMULATED" in status.detail and "503" in status.detail

        server.refuse_with = None
        await eventually(lambda: server.subscriptions)
        await server.send(server.quote("SOL_USDC", "18.67", "18.70"))

        def live() -> bool:
            price = board.get("SOL_USDC")
            return price is not None and not price.simulated

        await eventually(live)
        status = desk.status()
        assert (status.simulated, status.kind, status.healthy) == (False, FeedKind.BACKPACK, True)
        price = board.get("SOL_USDC")
        # Nothing of the made-up price is left beside the real one.
        assert price is not None and (price.price, price.last) == (1_868_500_000, 0)


async def test_a_price_that_gets_old_is_marked_stale(server: FakeBackpack) -> None:
    listener, board = Listener(), PriceBoard()
    desk = FeedDesk([backpack(server)], board, listener, SystemClock(), stale_ms=200)
    async with running(desk.run()):
        await eventually(lambda: server.subscriptions)
        await server.send(server.quote("SOL_USDC", "18.67", "18.70"))
        await eventually(lambda: [price.stale for price in listener.prices] == [False, True])
        assert [price.seq for price in listener.prices] == [1, 2]
        assert not desk.status().healthy
        await server.send(server.quote("SOL_USDC", "18.67", "18.70"))
        await eventually(lambda: len(listener.prices) >= 3 and not listener.prices[2].stale)


def test_the_middle_price_is_that_of_bid_and_ask_else_the_last() -> None:
    board = PriceBoard()
    traded = FeedTrade("BTC_USDC", 7 * UNIT, UNIT, 1)
    (price,) = board.apply([traded], RECORDING, 5)
    assert price.price == 7 * UNIT
    quoted = Quote("BTC_USDC", 8 * UNIT, 9 * UNIT, 2)
    (price,) = board.apply([quoted, traded], RECORDING, 6)
    assert (price.price, price.last, price.seq) == (17 * UNIT // 2, 7 * UNIT, 2)
    assert (price.source_time_ns, price.receive_time_ns) == (1, 6)


def test_the_same_seed_makes_the_same_prices() -> None:
    def steps(seed: int) -> list[FeedEvent]:
        walk = Walk(MARKETS[0], seed)
        return [event for number in range(200) for event in walk.step(number)]

    assert steps(7) == steps(7) != steps(8)
    for event in steps(7):
        if isinstance(event, Quote):
            assert 0 < event.bid < event.ask
            assert 50_000 * UNIT < event.bid < 80_000 * UNIT
            assert event.bid % (UNIT // 100) == 0
        else:
            assert event.quantity > 0 and event.quantity % 1_000 == 0


async def test_synthetic_prices_of_all_markets_come_about_twice_a_second() -> None:
    sink = Sink()
    feed = SyntheticFeed(MARKETS, ManualClock(5))
    async with running(feed.run(sink)):
        await eventually(lambda: {event.pair for event in sink.events} == set(NAMES))
    assert feed.simulated


def write_csv(path: Path, *rows: str) -> Path:
    with gzip.open(path, "wt") as file:
        file.write("\n".join(["ts_us,symbol,price,qty,side", *rows, ""]))
    return path


async def test_recordings_are_merged_by_time_and_bad_rows_dropped(tmp_path: Path) -> None:
    one = write_csv(
        tmp_path / "one.csv.gz",
        "1000,BTCUSDT,61837.63,0.02,sell",
        "3000,BTCUSDT,x,0.02,sell",
        "5000,BTCUSDT,61838,0.03,buy",
    )
    two = write_csv(tmp_path / "two.csv.gz", "2000,ETH-USD,2683.8,1,buy", "2500,XRPUSD,1,1,buy")
    feed, sink = ReplayFeed([one, two], NAMES, speed=0), Sink()
    await feed.run(sink)
    assert sink.events == [
        FeedTrade("BTC_USDC", 6_183_763_000_000, 2_000_000, 1_000_000),
        FeedTrade("ETH_USDC", 268_380_000_000, UNIT, 2_000_000),
        FeedTrade("BTC_USDC", 6_183_800_000_000, 3_000_000, 5_000_000),
    ]
    assert feed.health.bad_frames == 1
    assert not feed.health.connected and "has ended after 3 trades" in feed.health.detail


async def test_a_recording_keeps_its_pace(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "a.csv.gz",
        "1000000,BTCUSDT,1,1,buy",
        "3000000,BTCUSDT,2,1,buy",
        "603000000,BTCUSDT,3,1,buy",
    )
    feed, sink = ReplayFeed([path], NAMES, speed=10), Sink()
    started = asyncio.get_running_loop().time()
    async with running(feed.run(sink)):
        await eventually(lambda: len(sink.events) == 2)
        assert asyncio.get_running_loop().time() - started >= 0.19


@pytest.mark.parametrize(
    ("symbol", "base"),
    [("BTCUSDT", "BTC"), ("SOLUSD", "SOL"), ("DOGE_USDC", "DOGE"), ("BNB-USD", "BNB"), ("X", "X")],
)
def test_the_base_of_a_symbol(symbol: str, base: str) -> None:
    assert base_of(symbol) == base


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("kraken", "no feed"),
        ("replay:", "needs a file"),
        ("replay:/nowhere.csv.gz", "cannot read"),
        ("synthetic:x", "seed"),
        ("synthetic?speed=2", "no option"),
    ],
)
def test_a_wrong_feed_setting_says_what_is_wrong(spec: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        make_feed(spec, MARKETS, ManualClock())


def test_feed_settings_name_their_feed(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv.gz")
    for spec, kind in (
        ("backpack", FeedKind.BACKPACK),
        ("backpack?ws=ws://127.0.0.1:1/&rest=http://127.0.0.1:1", FeedKind.BACKPACK),
        (f"replay:{path},{path}?speed=0", FeedKind.REPLAY),
        ("synthetic", FeedKind.SYNTHETIC),
        ("synthetic:42", FeedKind.SYNTHETIC),
    ):
        assert make_feed(spec, MARKETS, ManualClock()).kind is kind
    with pytest.raises(ValueError, match="speed"):
        make_feed(f"replay:{path}?speed=-1", MARKETS, ManualClock())


def test_frames_with_numbers_in_place_of_texts_lose_no_digit() -> None:
    # A price that came as a JSON number is taken digit by digit, not through a float.
    from services.marketdata.feeds.backpack import _json_object

    frame = _json_object(json.dumps({"p": 1}).replace("1", "0.12345678901234567890"))
    assert frame == {"p": "0.12345678901234567890"}
