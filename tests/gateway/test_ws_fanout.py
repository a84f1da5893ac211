"""The WebSocket's fan-out: many clients, bad ones among them, several gateways, tokens that end."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import time
from typing import Any

import aiohttp
import pytest
from aiohttp.http_websocket import WebSocketWriter
from hypothesis import given
from hypothesis import strategies as st
from tidebook.engine.v1 import order_pb2
from tidebook.marketdata.v1 import marketdata_pb2 as md

from gateway.__main__ import run
from gateway.ws import descriptors
from gateway.ws.frames import Frame
from tests.gateway.conftest import World
from tests.gateway.sockets import (
    BOOK,
    Client,
    big_book,
    book,
    connected,
    metric,
    slow_client,
    with_book,
)
from tests.support import eventually, free_port, free_ports

TRADES = {"channel": "CHANNEL_TRADES", "markets": ["BTC_USDC"]}
ACCOUNT = {"channel": "CHANNEL_ACCOUNT"}


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False


@given(st.one_of(st.binary(max_size=300), st.sampled_from([b"x" * 65_535, b"x" * 65_536])))
def test_a_frame_on_the_wire_is_what_the_library_would_write(payload: bytes) -> None:
    wire: Any = Wire()
    WebSocketWriter(wire, wire)._write_websocket_frame(payload, 1, 0)
    assert Frame(payload).wire == wire.written


def trade(seq: int) -> md.WatchTradesResponse:
    return md.WatchTradesResponse(trades=[md.Trade(market="BTC_USDC", trade_id=seq, seq=seq)])


async def trade_ids(client: Client, last: int) -> list[int]:
    """The trades that a client gets, up to one."""
    seen: list[int] = []
    while not seen or seen[-1] < last:
        frame = await client.receive()
        seen += [int(one["tradeId"]) for one in frame.get("trades", {}).get("trades", ())]
    return seen


async def test_a_token_that_ends_takes_the_private_things_with_it_and_a_new_one_brings_them_back(
    world: World,
) -> None:
    async with connected(world) as client:
        await client.ask(subscribe=TRADES)
        await eventually(lambda: world.marketdata.listening("trades") == 1)
        short = world.auth.token(ttl_seconds=2)
        assert "done" in await client.ask(auth={"accessToken": short})
        assert "done" in await client.ask(subscribe=ACCOUNT)
        assert (await client.receive())["account"]["snapshot"]
        told = await client.receive()
        assert (told["id"], told["error"]["reason"]) == ("0", "REASON_TOKEN_EXPIRED")
        await eventually(lambda: world.engine.ended == ["account stream of 7"])
        assert (await client.ask(subscribe=ACCOUNT))["error"]["reason"] == "REASON_UNAUTHENTICATED"
        # What is public goes on.
        world.marketdata.publish("trades", trade(1))
        assert await trade_ids(client, 1) == [1]
        assert "done" in await client.ask(auth={"accessToken": world.auth.token()})
        assert "done" in await client.ask(subscribe=ACCOUNT)
        assert (await client.receive())["account"]["snapshot"]


async def test_a_newer_token_in_time_interrupts_nothing(world: World) -> None:
    async with connected(world) as client:
        ends = time.time() + 6
        await client.ask(auth={"accessToken": world.auth.token(ttl_seconds=6)})
        await client.ask(subscribe=ACCOUNT)
        assert (await client.receive())["account"]["snapshot"]
        await client.ask(auth={"accessToken": world.auth.token()})
        await eventually(lambda: time.time() > ends + 0.5)
        # The engine ends the stream of the old token; the next one begins where that stopped.
        await eventually(lambda: world.engine.resumed_from == [0, 10])
        world.engine.account_updates.put_nowait(order_pb2.WatchAccountResponse(seq=11, prev_seq=10))
        ping = await client.send(ping={})
        frames = {frame["id"]: frame for frame in [await client.receive() for _ in range(2)]}
        assert set(frames) == {"0", str(ping)}, "not an error, not a second snapshot"
        assert frames["0"]["account"]["seq"] == "11"


async def test_a_newer_token_in_time_keeps_the_orders_of_the_connection(world: World) -> None:
    """Under cancel-on-disconnect the end of the engine's stream would cancel them."""
    async with connected(world) as client:
        ends = time.time() + 6
        await client.ask(auth={"accessToken": world.auth.token(ttl_seconds=6)})
        await client.ask(cancelOnDisconnect={"enabled": True})
        order = {"market": "BTC_USDC", "side": "SIDE_BUY", "type": "ORDER_TYPE_MARKET"}
        assert "placed" in await client.ask(place=order)
        await client.ask(auth={"accessToken": world.auth.token()})
        await eventually(lambda: time.time() > ends + 1.5)
        assert "placed" in await client.ask(place=order)
        assert world.engine.ended == []


async def test_what_each_connection_costs_is_counted(world: World) -> None:
    with_book(world)
    async with aiohttp.ClientSession(world.url) as http, connected(world) as gone:
        await gone.ask(ping={})
        await gone.socket.close()
        await eventually(lambda: _is(http, "tidebook_ws_connections", 0))
        async with (
            connected(world, headers=world.bearer()) as one,
            connected(world) as two,
            slow_client(world, TRADES),
        ):
            await one.ask(subscribe=BOOK)
            await two.ask(subscribe={"channel": "CHANNEL_TRADES", "markets": ["BTC_USDC", "A"]})
            assert await metric(http, "tidebook_ws_connections") == 3
            assert await metric(http, "tidebook_ws_private") == 1
            assert await metric(http, "tidebook_ws_subscriptions") == 4
            # One ping, and three subscriptions.
            assert await metric(http, "tidebook_ws_frames_in_total") == 4

            async def answered() -> None:
                # The book's picture follows the answer to its subscription.
                assert await metric(http, "tidebook_ws_frames_out_total") >= 5

            await eventually(answered)
            assert await metric(http, "tidebook_ws_slow") == 0
            await eventually(lambda: world.marketdata.listening("trades") == 2)
            message = md.WatchTradesResponse(trades=[md.Trade(price="1" * 60)] * 2000)

            async def slow() -> None:
                # The system itself holds a few megabytes for a socket.
                world.marketdata.publish("trades", message)
                await _is(http, "tidebook_ws_slow", 1)

            await eventually(slow, interval_s=0.1)
            assert await metric(http, "tidebook_ws_waiting_bytes_max") > 100_000
            waiting = await metric(http, "tidebook_ws_waiting_bytes")
            assert waiting >= await metric(http, "tidebook_ws_waiting_bytes_max")


async def _is(http: aiohttp.ClientSession, name: str, value: int) -> None:
    assert await metric(http, name) == value


async def test_slow_stuck_and_flapping_clients_take_nothing_from_the_others(world: World) -> None:
    with_book(world)
    stuck, rounds, good = 12, 150, 12
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(stuck):
            await stack.enter_async_context(slow_client(world, BOOK))
        readers = [await stack.enter_async_context(connected(world)) for _ in range(good)]
        for reader in readers:
            await reader.ask(subscribe=TRADES)
        await eventually(lambda: world.marketdata.listening("trades") == 1)
        await eventually(lambda: world.marketdata.listening("book BTC_USDC") == 1)
        flapping = asyncio.create_task(_flap(world))
        for seq in range(1, rounds + 1):
            world.marketdata.publish("trades", trade(seq))
            # Far more than the stuck ones take.
            world.marketdata.publish("book BTC_USDC", big_book(seq + 5, seq + 4))
            # Everybody who reads has it before the next one.
            for reader in readers:
                assert await trade_ids(reader, seq) == [seq]
        flapping.cancel()
        http = await stack.enter_async_context(aiohttp.ClientSession(world.url))
        assert await metric(http, "tidebook_ws_slow") == stuck
        # At most what one queue holds, and what is with the transport.
        assert await metric(http, "tidebook_ws_waiting_bytes_max") < 5 << 20
        assert await metric(http, "tidebook_ws_connections") >= stuck + good


async def _flap(world: World) -> None:
    """Connect, subscribe, and go without a word, again and again."""
    while True:
        async with connected(world) as client:
            await client.send(subscribe=BOOK)
            await client.send(subscribe=TRADES)
            await client.send(unsubscribe=TRADES)
            transport = client.socket._response.connection
            assert transport is not None and transport.transport is not None
            transport.transport.abort()
        await asyncio.sleep(0.005)


async def test_two_gateways_serve_the_same_streams(world: World) -> None:
    with_book(world)
    ports = free_ports([0, 1])
    settings = world.settings.model_copy(
        update={"http_port": free_port(), "grpc_port": ports, "drain_seconds": 0.5}
    )
    stop = asyncio.Event()
    second = asyncio.create_task(run(settings, stop))
    other = World(settings)
    await other.ready()
    try:
        async with connected(world) as one, connected(other) as two:
            seen = []
            for client in (one, two):
                await client.ask(subscribe=BOOK)
                seen.append((await client.receive())["book"])
            assert world.marketdata.listening("book BTC_USDC") == 2
            update = md.WatchBookResponse(books=[book(9, 5, {"98": "1"})])
            world.marketdata.publish("book BTC_USDC", update)
            for client in (one, two):
                seen.append((await client.receive())["book"])
            assert seen[0] == seen[1] and seen[2] == seen[3]
    finally:
        stop.set()
        await second


def test_the_limit_of_open_files_is_raised_as_far_as_it_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = [(1024, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.append(new))
    assert descriptors.room_for(100) == 100
    assert descriptors.room_for(2000) == 2000
    assert limits[-1] == (2000 + descriptors.RESERVED, 4096)
    # The system says how many files there may be: the rest is refused by name, not by EMFILE.
    assert descriptors.room_for(5000) == 4096 - descriptors.RESERVED
    assert limits[-1] == (4096, 4096)
