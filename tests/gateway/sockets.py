"""WebSocket clients of the gateway, quick and slow ones, and books to send them."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from tidebook.marketdata.v1 import marketdata_pb2 as md

from tests.gateway.conftest import World

BOOK = {"channel": "CHANNEL_BOOK", "markets": ["BTC_USDC"]}


class Client:
    """A WebSocket that sends and receives frames as data."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self._id = 0

    async def send(self, **op: Any) -> int:
        self._id += 1
        await self.socket.send_json({"id": str(self._id), **op})
        return self._id

    async def receive(self) -> dict[str, Any]:
        frame: dict[str, Any] = await self.socket.receive_json(timeout=60)
        return frame

    async def ask(self, **op: Any) -> dict[str, Any]:
        """Send and return the answer; data in between is dropped."""
        number = await self.send(**op)
        while True:
            frame = await self.receive()
            if frame["id"] == str(number):
                return frame


@contextlib.asynccontextmanager
async def connected(world: World, **options: Any) -> AsyncIterator[Client]:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{world.url}/ws", **options) as ws,
    ):
        yield Client(ws)


def book(seq: int, prev_seq: int, bids: dict[str, str], *, snapshot: bool = False) -> md.BookUpdate:
    return md.BookUpdate(
        market="BTC_USDC",
        seq=seq,
        prev_seq=prev_seq,
        snapshot=snapshot,
        bids=[md.Level(price=price, quantity=quantity) for price, quantity in bids.items()],
    )


def with_book(world: World) -> None:
    world.marketdata.book_snapshots["BTC_USDC"] = book(5, 0, {"100": "1", "99": "2"}, snapshot=True)


def big_book(seq: int, prev_seq: int) -> md.WatchBookResponse:
    """A delta of about 40 kB."""
    return md.WatchBookResponse(
        books=[book(seq, prev_seq, {f"{price}": "1" for price in range(1000, 2000)})]
    )


@contextlib.asynccontextmanager
async def slow_client(world: World, channel: dict[str, Any]) -> AsyncIterator[Client]:
    """A client with a small receive buffer that reads nothing until it is told to."""

    def small_socket(address: Any) -> socket.socket:
        made = socket.socket(address[0], address[1])
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        return made

    connector = aiohttp.TCPConnector(socket_factory=small_socket)
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.ws_connect(f"{world.url}/ws", max_msg_size=0) as ws,
    ):
        client = Client(ws)
        await client.ask(subscribe=channel)
        transport: Any = ws._writer.transport
        transport.pause_reading()
        client.resume = transport.resume_reading  # type: ignore[attr-defined]
        try:
            yield client
        finally:
            # One that reads nothing would wait for the other side's goodbye.
            transport.abort()


async def metric(http: aiohttp.ClientSession, name: str) -> int:
    """What `/metrics` says of one series now."""
    async with http.get("/metrics") as answer:
        found = re.search(f"^{re.escape(name)} ([0-9]+)$", await answer.text(), re.MULTILINE)
    assert found is not None, name
    return int(found[1])
