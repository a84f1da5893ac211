"""A local server that speaks Backpack's documented protocol, and misbehaves when told to."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import WSMsgType, web

SYMBOLS = ("BTC_USDC", "ETH_USDC", "SOL_USDC", "DOGE_USDC")
# 2025-01-06 in microseconds, as in the recorded frames.
TIME_US = 1_736_172_777_497_712


class FakeBackpack:
    """Markets over REST, streams over WebSocket. Attributes say what it does next."""

    def __init__(self) -> None:
        self.symbols: Any = [{"symbol": symbol} for symbol in SYMBOLS]
        self.refuse_with: int | None = None
        self.retry_after = ""
        self.asked = 0
        self.subscriptions: list[list[str]] = []
        self.pongs = 0
        self.elsewhere = ""
        self.led_astray = 0
        self._sockets: list[web.WebSocketResponse] = []
        self._number = 0
        self.port = 0

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    @property
    def rest_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def markets(self, _: web.Request) -> web.Response:
        self.asked += 1
        if self.refuse_with is not None:
            headers = {"Retry-After": self.retry_after} if self.retry_after else {}
            return web.Response(status=self.refuse_with, headers=headers)
        return web.json_response(self.symbols)

    async def trap(self, _: web.Request) -> web.Response:
        self.led_astray += 1
        return web.Response()

    async def socket(self, request: web.Request) -> web.WebSocketResponse:
        if self.elsewhere:
            raise web.HTTPFound(self.elsewhere)
        socket = web.WebSocketResponse(autoping=False)
        await socket.prepare(request)
        self._sockets.append(socket)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                asked = json.loads(message.data)
                assert asked["method"] == "SUBSCRIBE"
                self.subscriptions.append(asked["params"])
            elif message.type is WSMsgType.PONG:
                self.pongs += 1
        return socket

    async def send(self, frame: Any) -> None:
        """A frame to the newest connection: text as it is, bytes as binary, the rest as JSON."""
        socket = self._sockets[-1]
        if isinstance(frame, bytes):
            await socket.send_bytes(frame)
        else:
            await socket.send_str(frame if isinstance(frame, str) else json.dumps(frame))

    async def ping(self) -> None:
        await self._sockets[-1].ping()

    async def close(self) -> None:
        """A close frame, as on a shutdown of theirs."""
        await self._sockets[-1].close(code=1001, message=b"going away")

    def cut(self) -> None:
        """Cut the connection without a word."""
        transport = self._sockets[-1]._req.transport  # type: ignore[union-attr]
        assert transport is not None
        transport.abort()

    def quote(self, symbol: str, bid: str, ask: str, **changed: Any) -> dict[str, Any]:
        """A bookTicker frame."""
        self._number += 1
        data = {
            "e": "bookTicker",
            "E": TIME_US + self._number,
            "T": TIME_US + self._number,
            "s": symbol,
            "a": ask,
            "A": "1.000",
            "b": bid,
            "B": "2.000",
            "u": str(111_063_070_525_358_080 + self._number),
        }
        return {"stream": f"bookTicker.{symbol}", "data": data | changed}

    def trade(self, symbol: str, price: str, quantity: str, **changed: Any) -> dict[str, Any]:
        """A trade frame."""
        self._number += 1
        data = {
            "e": "trade",
            "E": TIME_US + self._number,
            "T": TIME_US + self._number,
            "s": symbol,
            "p": price,
            "q": quantity,
            "t": 341_399_899 + self._number,
            "a": "113782701997686784",
            "b": "113782700596854784",
            "m": True,
        }
        return {"stream": f"trade.{symbol}", "data": data | changed}


@contextlib.asynccontextmanager
async def fake_backpack() -> AsyncIterator[FakeBackpack]:
    """The server on a port of its own."""
    fake = FakeBackpack()
    app = web.Application()
    app.router.add_get("/api/v1/markets", fake.markets)
    app.router.add_get("/ws", fake.socket)
    app.router.add_get("/trap", fake.trap)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        fake.port = runner.addresses[0][1]
        yield fake
    finally:
        await asyncio.wait_for(runner.cleanup(), 10)
