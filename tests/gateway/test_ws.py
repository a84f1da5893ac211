"""The WebSocket: subscriptions, shared streams, orders, limits, slow clients."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest_asyncio
from tidebook.engine.v1 import order_pb2
from tidebook.marketdata.v1 import marketdata_pb2 as md

from kernel.reasons import Reason, Refused
from tests.gateway.conftest import Start, World
from tests.gateway.sockets import BOOK, Client, big_book, book, connected, slow_client, with_book
from tests.support import eventually

ORDER = {
    "market": "BTC_USDC",
    "side": "SIDE_BUY",
    "type": "ORDER_TYPE_LIMIT",
    "price": "50000",
    "quantity": "0.1",
}


@pytest_asyncio.fixture
async def client(world: World) -> AsyncIterator[Client]:
    async with connected(world) as connection:
        yield connection


async def test_ping_is_answered_with_the_time(client: Client) -> None:
    assert (await client.ask(ping={}))["pong"]["time"].endswith("Z")


async def test_bad_frames_are_refused_by_name_and_the_connection_goes_on(client: Client) -> None:
    cases = [
        ("nonsense", "0", ""),
        ('{"id": 4, "nothing": {}}', "4", "nothing"),
        ('{"id": 5}', "5", "op"),
        ('{"id": 6, "subscribe": {"channel": "CHANNEL_BOOK", "depth": 5000}}', "6", "depth"),
        ('{"id": 7, "subscribe": {"channel": "CHANNEL_BOOK"}}', "7", "markets"),
        ('{"id": 8, "place": {"market": "BTC_USDC"}}', "8", "side"),
        ('{"id": 9, "ping": {}, "ping": {}}', "0", "ping"),
        ('{"id": 10, "ping": {}, "auth": {"accessToken": "x"}}', "10", "auth"),
        ('{"id": 11, "cancel": {"orderId": 1e30}}', "11", "orderId"),
        ('{"id": 12, "amend": {"orderId": "18446744073709551616"}}', "12", "orderId"),
        ('{"id": 13, "place": []}', "13", "place"),
        ('{"id": 99999999999999999999, "ping": {}}', "0", "id"),
        ("[" * 3000, "0", ""),
        ("null", "0", ""),
    ]
    for text, number, field in cases:
        await client.socket.send_str(text)
        frame = await client.receive()
        assert frame["id"] == number
        assert frame["error"]["reason"] == "REASON_INVALID_ARGUMENT"
        assert frame["error"]["field"].endswith(field), text
    assert "pong" in await client.ask(ping={})


async def test_readers_of_a_topic_share_one_stream_that_ends_with_the_last(world: World) -> None:
    with_book(world)
    async with connected(world) as one, connected(world) as two:
        for client in (one, two):
            assert "done" in await client.ask(subscribe=BOOK)
            snapshot = (await client.receive())["book"]["books"][0]
            assert snapshot["snapshot"] is True
            assert snapshot["seq"] == "5"
        assert world.marketdata.opened == ["book BTC_USDC"]
        assert "done" in await one.ask(unsubscribe=BOOK)
        assert world.marketdata.listening("book BTC_USDC") == 1
    await eventually(lambda: world.marketdata.listening("book BTC_USDC") == 0)


async def test_who_comes_later_gets_a_snapshot_that_the_next_delta_fits(world: World) -> None:
    with_book(world)
    async with connected(world) as early, connected(world) as late:
        await early.ask(subscribe=BOOK)
        await early.receive()
        world.marketdata.publish(
            "book BTC_USDC", md.WatchBookResponse(books=[book(8, 5, {"101": "3", "100": "0"})])
        )
        assert (await early.receive())["book"]["books"][0]["prevSeq"] == "5"
        await late.ask(subscribe=BOOK)
        snapshot = (await late.receive())["book"]["books"][0]
        assert (snapshot["seq"], snapshot["prevSeq"]) == ("8", "0")
        assert [level["price"] for level in snapshot["bids"]] == ["101", "99"]
        world.marketdata.publish(
            "book BTC_USDC", md.WatchBookResponse(books=[book(9, 8, {"98": "1"})])
        )
        assert (await late.receive())["book"]["books"][0]["prevSeq"] == "8"


async def test_a_market_that_is_not_there_ends_the_subscription(client: Client) -> None:
    number = await client.send(subscribe={"channel": "CHANNEL_BOOK", "markets": ["NOPE"]})
    assert "done" in await client.receive()
    frame = await client.receive()
    assert frame["id"] == str(number)
    assert frame["error"]["reason"] == "REASON_MARKET_NOT_FOUND"


async def test_a_lost_stream_comes_back_with_a_snapshot_and_trades_resume(
    world: World, client: Client
) -> None:
    with_book(world)
    await client.ask(subscribe=BOOK)
    await client.receive()
    await client.ask(subscribe={"channel": "CHANNEL_TRADES", "markets": ["BTC_USDC"]})
    await eventually(lambda: world.marketdata.listening("trades") == 1)
    world.marketdata.publish(
        "trades", md.WatchTradesResponse(trades=[md.Trade(market="BTC_USDC", seq=44)])
    )
    assert (await client.receive())["trades"]["trades"][0]["seq"] == "44"
    world.marketdata.publish("book BTC_USDC", Refused(Reason.UNAVAILABLE))
    world.marketdata.publish("trades", Refused(Reason.UNAVAILABLE))
    assert (await client.receive())["book"]["books"][0]["snapshot"] is True
    await eventually(lambda: world.marketdata.trade_resumes == [0, 44])


async def test_every_public_channel_begins_goes_on_and_ends(world: World) -> None:
    with_book(world)
    market = "BTC_USDC"
    channels: dict[str, tuple[str, Any]] = {
        "prices": ("prices", md.WatchPricesResponse(prices=[md.Price(market=market, seq=1)])),
        "ticker": ("tickers", md.WatchTickersResponse(tickers=[md.Ticker(market=market)])),
        "book": (f"book {market}", md.WatchBookResponse(books=[book(6, 5, {"98": "1"})])),
        "trades": ("trades", md.WatchTradesResponse(trades=[md.Trade(market=market, seq=1)])),
        "candles": ("candles", md.WatchCandlesResponse(candles=[md.Candle(market=market)])),
    }

    def listening(stream: str, count: int) -> Callable[[], bool]:
        return lambda: world.marketdata.listening(stream) == count

    async with connected(world) as client:
        for name, (stream, message) in channels.items():
            wanted = {"channel": f"CHANNEL_{name.upper()}", "markets": [market]}
            assert "done" in await client.ask(subscribe=wanted)
            await eventually(listening(stream, 1))
            world.marketdata.publish(stream, message)
            frame = await client.receive()
            assert (frame["id"], set(frame)) == ("0", {"id", name})
            if name == "book":
                assert frame["book"]["books"][0]["snapshot"] is True
                assert (await client.receive())["book"]["books"][0]["prevSeq"] == "5"
            assert "done" in await client.ask(unsubscribe=wanted)
            await eventually(listening(stream, 0))
    # What was not said is the default.
    assert world.marketdata.candles_asked == [(md.CANDLE_INTERVAL_1M, md.CANDLE_SOURCE_CLOB)]


async def test_what_is_no_text_ends_the_connection(world: World) -> None:
    async with connected(world) as client:
        await client.socket.send_bytes(b"{}")
        assert (await client.socket.receive()).type is aiohttp.WSMsgType.CLOSE
        assert client.socket.close_code == aiohttp.WSCloseCode.UNSUPPORTED_DATA


async def test_prices_of_a_new_reader_begin_anew(world: World) -> None:
    prices = {"channel": "CHANNEL_PRICES"}
    async with connected(world) as early, connected(world) as late:
        await early.ask(subscribe=prices)
        await eventually(lambda: world.marketdata.listening("prices") == 1)
        price = md.Price(market="BTC_USDC", price="1", seq=3, prev_seq=2, simulated=True)
        world.marketdata.publish("prices", md.WatchPricesResponse(prices=[price]))
        assert (await early.receive())["prices"]["prices"][0]["prevSeq"] == "2"
        await late.ask(subscribe=prices)
        first = (await late.receive())["prices"]["prices"][0]
        assert (first["seq"], first["prevSeq"], first["simulated"]) == ("3", "0", True)


async def test_private_things_need_auth(world: World, client: Client) -> None:
    for op in (
        {"subscribe": {"channel": "CHANNEL_ACCOUNT"}},
        {"place": ORDER},
        {"cancelOnDisconnect": {"enabled": True}},
    ):
        assert (await client.ask(**op))["error"]["reason"] == "REASON_UNAUTHENTICATED"
    refused = await client.ask(auth={"accessToken": "nonsense"})
    assert refused["error"]["reason"] == "REASON_TOKEN_INVALID"
    assert "done" in await client.ask(auth={"accessToken": world.auth.token(scopes=["read"])})
    assert (await client.ask(place=ORDER))["error"]["reason"] == "REASON_SCOPE_MISSING"
    assert "done" in await client.ask(subscribe={"channel": "CHANNEL_ACCOUNT"})
    assert (await client.receive())["account"]["snapshot"] is True


async def test_a_session_cookie_is_auth_but_not_from_another_origin(world: World) -> None:
    cookie = {"Cookie": f"tidebook_access={world.auth.token()}"}
    async with connected(world, headers=cookie, origin=world.url) as client:
        assert "done" in await client.ask(subscribe={"channel": "CHANNEL_ACCOUNT"})
    try:
        async with connected(world, headers=cookie, origin="https://evil.example"):
            raise AssertionError("connected")
    except aiohttp.WSServerHandshakeError as error:
        assert error.status == 403


async def test_the_account_channel_resumes_where_it_was(world: World, client: Client) -> None:
    await client.ask(auth={"accessToken": world.auth.token()})
    await client.ask(subscribe={"channel": "CHANNEL_ACCOUNT"})
    await client.receive()
    world.engine.account_updates.put_nowait(order_pb2.WatchAccountResponse(seq=12, prev_seq=10))
    assert (await client.receive())["account"]["prevSeq"] == "10"
    world.engine.account_updates.put_nowait(Refused(Reason.UNAVAILABLE))
    await eventually(lambda: world.engine.resumed_from == [0, 12])
    world.engine.account_updates.put_nowait(Refused(Reason.SESSION_REVOKED))
    assert (await client.receive())["error"]["reason"] == "REASON_SESSION_REVOKED"


async def test_orders_go_through_one_stream_and_are_answered_by_id(
    world: World, client: Client
) -> None:
    await client.ask(auth={"accessToken": world.auth.token()})
    assert (await client.ask(place=ORDER))["placed"]["order"]["orderId"] == "1"
    wrong = await client.ask(place=ORDER | {"price": "0.001"})
    assert wrong["error"]["reason"] == "REASON_PRICE_NOT_ON_TICK"
    assert "amended" in await client.ask(amend={"orderId": "1", "price": "2"})
    assert (await client.ask(cancel={"orderId": "1"}))["cancelled"]["order"]["orderId"] == "1"
    refused = await client.ask(cancelOnDisconnect={"enabled": True})
    assert refused["error"]["field"] == "cancel_on_disconnect"
    await client.socket.close()
    await eventually(lambda: world.engine.ended == ["trade stream of 7, cancel False"])


async def test_orders_that_wait_for_a_busy_engine_go_together(world: World) -> None:
    world.engine.delay_seconds = 0.05
    async with connected(world, headers=world.bearer()) as client:
        sent = [await client.send(place=ORDER) for _ in range(100)]
        answers = [await client.receive() for _ in sent]
    assert [int(answer["id"]) for answer in answers] == sent
    placed = [int(answer["placed"]["order"]["orderId"]) for answer in answers]
    assert placed == list(range(1, 101))
    assert world.engine.trade_messages < 50


async def test_cancel_on_disconnect_is_told_to_the_engine(world: World) -> None:
    async with connected(world, headers=world.bearer()) as client:
        assert "done" in await client.ask(cancelOnDisconnect={"enabled": True})
        await client.ask(place=ORDER)
    await eventually(lambda: world.engine.ended == ["trade stream of 7, cancel True"])


async def test_an_engine_that_is_lost_answers_and_comes_back(world: World) -> None:
    async with connected(world, headers=world.bearer()) as client:
        await client.ask(place=ORDER)
        await world.stop_service("engine")
        refused = (await client.ask(place=ORDER))["error"]
        assert refused["reason"] in ("REASON_UNAVAILABLE", "REASON_DRAINING")
        await world.start_service("engine")

        async def works() -> None:
            assert "placed" in await client.ask(place=ORDER)

        await eventually(works)


async def test_too_many_subscriptions_and_messages_are_refused(start_world: Start) -> None:
    world = await start_world(ws_max_subscriptions=2, ws_max_messages_per_second=5)
    with_book(world)
    async with connected(world) as client:
        markets = {"channel": "CHANNEL_TRADES", "markets": ["A", "B", "C"]}
        refused = await client.ask(subscribe=markets)
        assert refused["error"]["details"] == {"limit": "2"}
        for _ in range(10):
            await client.send(ping={})
        kinds = [next(key for key in await client.receive() if key != "id") for _ in range(10)]
        assert "error" in kinds
    async with connected(world) as client:
        await client.socket.send_str("x" * (65 << 10))
        assert (await client.socket.receive()).type is aiohttp.WSMsgType.CLOSE
        assert client.socket.close_code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG


async def test_a_slow_reader_of_a_book_gets_a_snapshot_in_place_of_what_it_missed(
    world: World,
) -> None:
    with_book(world)
    async with slow_client(world, BOOK) as slow, aiohttp.ClientSession(world.url) as http:
        await eventually(lambda: world.marketdata.listening("book BTC_USDC") == 1)
        for seq in range(6, 400):
            world.marketdata.publish("book BTC_USDC", big_book(seq, seq - 1))

        async def conflated() -> None:
            async with http.get("/metrics") as answer:
                text = await answer.text()
            assert re.search("^tidebook_ws_conflated_total [1-9]", text, re.MULTILINE)

        await eventually(conflated)
        slow.resume()  # type: ignore[attr-defined]
        seq, snapshots = 5, 0
        while seq < 399:
            update = (await slow.receive()).get("book", {"books": [None]})["books"][0]
            if update is None or (update["snapshot"] and update["seq"] == "5"):
                continue
            if update["snapshot"]:
                snapshots += 1
            else:
                assert update["prevSeq"] == str(seq), "nothing is missing after a snapshot"
            seq = int(update["seq"])
        assert snapshots >= 1


async def test_a_slow_reader_of_trades_is_cut(world: World) -> None:
    trades = {"channel": "CHANNEL_TRADES", "markets": ["BTC_USDC"]}
    async with slow_client(world, trades) as slow, aiohttp.ClientSession(world.url) as http:
        await eventually(lambda: world.marketdata.listening("trades") == 1)
        message = md.WatchTradesResponse(
            trades=[md.Trade(market="BTC_USDC", seq=1, price="1" * 60)] * 400
        )
        for _ in range(300):
            world.marketdata.publish("trades", message)

        async def cut() -> None:
            async with http.get("/metrics") as answer:
                text = await answer.text()
            assert 'tidebook_ws_cut_total{reason="slow_reader"} 1' in text
            assert "tidebook_ws_connections 0" in text

        await eventually(cut)
        slow.resume()  # type: ignore[attr-defined]
    await eventually(lambda: world.marketdata.listening("trades") == 0)


async def test_a_stopping_gateway_closes_with_1001(world: World) -> None:
    async with connected(world) as client:
        await client.ask(ping={})
        world.stop.set()
        message = await client.socket.receive(timeout=60)
        assert message.type is aiohttp.WSMsgType.CLOSE
        assert client.socket.close_code == aiohttp.WSCloseCode.GOING_AWAY
    assert world.gateway is not None
    await asyncio.wait_for(world.gateway, 60)
